"""Faults of our own: a number outside, everything in the log."""

from structlog.testing import capture_logs

from xenopsd.incident import incident


def test_a_client_gets_a_number_and_the_log_the_rest():
    with capture_logs() as logs:
        first, second = incident(ValueError("secret")), incident(KeyError("x"))
    assert first.incident != second.incident
    assert "secret" not in str(first.error_object())
    assert [entry["incident"] for entry in logs] == [first.incident, second.incident]
    assert str(logs[0]["exc_info"]) == "secret"
