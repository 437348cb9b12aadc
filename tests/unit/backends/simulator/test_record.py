import pytest
from msgspec.structs import replace

from backends.simulator.record import Record, decode, encode, observed, vcpu_seconds

RECORD = Record(id="7", name="vm1", created=1.0, vm="vm1", instance="default", incarnation="i1")


def test_a_line_is_read_as_it_was_written():
    assert decode(encode(RECORD)) == RECORD


def test_a_domain_that_is_gone_is_a_line_too():
    assert decode(encode(None)) is None


@pytest.mark.parametrize("line", [b"", b"   \n"], ids=["empty", "blank"])
def test_a_file_not_yet_written_holds_no_domain(line):
    assert decode(line) is None


def test_a_shorter_line_covers_the_longer_one_before():
    long = encode(replace(RECORD, name="x" * 500))
    short = encode(RECORD, len(long))
    assert len(short) == len(long)
    assert short.endswith(b"\n")
    assert decode(short) == RECORD


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda line: line.replace(b'"7"', b'"8"'), id="another value"),
        pytest.param(lambda line: line.replace(b"crc32:", b"crc31:"), id="another checksum"),
        pytest.param(lambda line: line[:40], id="cut short"),
        pytest.param(lambda line: b"hello\n", id="no JSON"),
    ],
)
def test_a_damaged_line_is_refused(damage):
    with pytest.raises(ValueError):  # noqa: PT011  # decoding's, or the checksum's
        decode(damage(encode(RECORD)))


def test_vcpu_time_is_counted_while_they_run():
    running = replace(RECORD, ran=2.0, running_since=100.0)
    assert vcpu_seconds(running, 103.0) == 5.0
    assert vcpu_seconds(RECORD, 103.0) == 0.0


def test_a_clock_set_back_takes_no_time_away():
    assert vcpu_seconds(replace(RECORD, ran=2.0, running_since=100.0), 90.0) == 2.0


def test_the_agent_speaks_once_the_guest_has_run():
    assert observed(RECORD, 0.0).guest_agent == {}
    seen = observed(replace(RECORD, ran=1.0), 0.0)
    assert seen.guest_agent
    assert seen.pv_drivers_detected
