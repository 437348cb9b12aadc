import contextlib
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from journal.errors import JournalDamaged
from journal.records import Begun, Done, Intent, Turned, encode_line
from journal.replay import OutOfOrder, fold, parse, unasked


def begun(task="t1", plan=b'["a","b","c"]'):
    return Begun(
        task=task,
        operation="VM.start",
        params=Raw(b"{}"),
        boot="b1",
        incarnation=None,
        plan=Raw(plan),
        at=1.0,
    )


BEGUN = begun()
BACK = Turned(direction="back", task=None, plan=Raw(b'["undo"]'), error=Raw(b'{"code":1}'))
RECORDS = [
    BEGUN,
    Intent(step=0, name="a", facts=Raw(b'{"tap":"t"}')),
    Done(step=0, facts=Raw(b'{"n":1}')),
    Intent(step=1, name="b"),
    BACK,
    Intent(step=0, name="undo"),
]


def journal(*records):
    return b"".join(encode_line(seq, record) for seq, record in enumerate(records, 1))


def forged(seq, record):
    body = json.dumps(record).encode()
    crc = zlib.crc32(b"%d" % seq + body)
    return b'{"seq":%d,"crc":"%08x","record":%b}\n' % (seq, crc, body)


# -- fold


def test_nothing_recorded_is_nothing_open():
    assert fold([]) is None


@pytest.mark.parametrize(
    ("records", "done", "intended"),
    [
        pytest.param([], 0, None, id="begun alone"),
        pytest.param([Intent(step=0, name="a")], 0, 0, id="first step intended"),
        pytest.param([Intent(step=0, name="a"), Done(step=0)], 1, None, id="first step done"),
        pytest.param(
            [Intent(step=0, name="a"), Done(step=0), Intent(step=1, name="b")],
            1,
            1,
            id="second step intended",
        ),
        pytest.param(
            [Intent(step=0, name="a"), Intent(step=0, name="a")], 0, 0, id="intended once more"
        ),
        pytest.param([Done(step=0), Done(step=1)], 2, None, id="done without intents"),
    ],
)
def test_fold_counts_the_steps(records, done, intended):
    intent = fold([BEGUN, *records])
    assert (intent.done, intent.intended) == (done, intended)
    assert (intent.begun, intent.direction, intent.plan) == (BEGUN, "forward", BEGUN.plan)


def test_fold_keeps_the_facts():
    intent = fold(RECORDS[:4])
    assert intent.outcomes == (Raw(b'{"n":1}'),)
    assert intent.intended_name == "b"
    assert fold(RECORDS[:2]).intended_facts == Raw(b'{"tap":"t"}')


def test_after_a_turn_the_new_plan_counts_from_its_start():
    intent = fold([*RECORDS[:4], BACK])
    assert (intent.direction, intent.task, intent.plan) == ("back", None, BACK.plan)
    assert (intent.done, intent.intended, intent.error) == (0, None, BACK.error)
    assert intent.begun == BEGUN


def test_a_later_begun_replaces_the_earlier():
    assert fold([*RECORDS, begun("t2")]).task == "t2"
    assert fold([*RECORDS, begun("t2")]).direction == "forward"


@pytest.mark.parametrize(
    "records",
    [
        pytest.param([Intent(step=0, name="a")], id="intent before begun"),
        pytest.param([Done(step=0)], id="done before begun"),
        pytest.param([BACK], id="turned before begun"),
        pytest.param([BEGUN, Intent(step=1, name="b")], id="a step left out"),
        pytest.param([BEGUN, Done(step=0), Done(step=0)], id="a step done twice"),
        pytest.param([BEGUN, Done(step=0), BACK, Done(step=1)], id="the old count after a turn"),
    ],
)
def test_records_out_of_order_are_refused(records):
    with pytest.raises(OutOfOrder):
        fold(records)


# -- parse


def test_a_whole_journal_is_read_whole():
    data = journal(*RECORDS)
    for rebooted in (False, True):
        parsed = parse(data, rebooted=rebooted)
        assert parsed.records == tuple(RECORDS)
        assert (parsed.valid_bytes, parsed.next_seq) == (len(data), 7)
        assert parsed.intent == fold(RECORDS)


def test_an_empty_journal_leaves_nothing_open():
    parsed = parse(b"", rebooted=False)
    assert (parsed.records, parsed.valid_bytes, parsed.next_seq) == ((), 0, 1)


@pytest.mark.parametrize("rebooted", [False, True], ids=["this boot", "another boot"])
@given(cut=st.integers(0, len(journal(*RECORDS))))
def test_cut_anywhere_the_whole_lines_are_kept(cut, rebooted):
    data = journal(*RECORDS)[:cut]
    parsed = parse(data, rebooted=rebooted)
    whole = data.count(b"\n")
    assert parsed.records == tuple(RECORDS[:whole])
    assert parsed.valid_bytes == data.rfind(b"\n") + 1


LINES = [encode_line(seq, record) for seq, record in enumerate(RECORDS, 1)]


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        pytest.param(LINES[0] + LINES[1].replace(b"tap", b"tip") + LINES[2], 1, id="bad checksum"),
        pytest.param(LINES[0] + LINES[1].replace(b"tap", b"tip"), 1, id="bad checksum at the end"),
        pytest.param(LINES[0] + b"\n" + LINES[1], 1, id="an empty line"),
        pytest.param(LINES[0] + b"\0" * 512, 1, id="zeros at the end"),
        pytest.param(b"\0" * 512, 0, id="nothing but zeros"),
        pytest.param(b"\xf3\x01rubbish", 0, id="nothing but rubbish"),
        pytest.param(
            LINES[0] + LINES[1][:30] + b"\n" + LINES[2], 1, id="a torn line in the middle"
        ),
        pytest.param(LINES[0] + LINES[2], 1, id="a line is missing"),
        pytest.param(LINES[1] + LINES[2], 0, id="the first line is missing"),
        pytest.param(LINES[0] + LINES[0], 1, id="a line twice"),
        pytest.param(LINES[0] + LINES[4][:20], 1, id="the beginning of another line"),
        pytest.param(LINES[0] + forged(2, {"kind": "paused"}), 1, id="an unknown kind"),
        pytest.param(LINES[0] + forged(2, {"kind": "done", "step": "x"}), 1, id="a wrong type"),
        pytest.param(encode_line(1, Done(step=0)), 0, id="done before begun"),
        pytest.param(LINES[0] + encode_line(2, Done(step=4)), 1, id="a step out of order"),
    ],
)
def test_damage_is_told_in_this_boot_and_cut_after_another(data, kept):
    with pytest.raises(JournalDamaged, match=f"line {kept + 1}: "):
        parse(data, rebooted=False)
    parsed = parse(data, rebooted=True)
    assert parsed.records == tuple(RECORDS[:kept])
    assert parsed.valid_bytes == sum(map(len, LINES[:kept]))


@given(st.binary(max_size=200))
def test_rubbish_never_raises_anything_else(data):
    parse(data, rebooted=True)
    with contextlib.suppress(JournalDamaged):
        parse(data, rebooted=False)


# -- unasked


@pytest.mark.parametrize("length", range(1, len(RECORDS) + 1))
def test_what_nobody_asks_for_any_more_is_as_open_as_before(length):
    before = fold(RECORDS[:length])
    assert fold([*RECORDS[:length], *unasked(before)]) == replace(before, task=None)
