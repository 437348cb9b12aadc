"""A question between two threads."""

from xenopsd.pulse import Pulse


def test_every_question_needs_an_answer():
    pulse = Pulse("intake")
    assert pulse.answered
    pulse.ask()
    assert not pulse.answered
    pulse.answer()
    assert pulse.answered
    pulse.ask()
    pulse.ask()
    assert not pulse.answered
    pulse.answer()
    assert pulse.answered
