"""A run as text and as Markdown."""

from bench.report import Report, as_markdown, as_text
from bench.rows import Row, at_most
from bench.scenarios.curves import Point

ROWS = [
    Row("s", "a thing", "ms", 1.5, at_most(2), "of 3"),
    Row("s", "another", "times", None, at_most(1), "not installed"),
]
POINT = Point(1000, 0.1, 0.2, 10.0, 0.3, 0.4, 1.0, 70.0)
REPORT = Report(0.0, "a machine", quick=False, rows=ROWS, curves=[POINT])


def test_text_is_aligned_and_has_each_note_below_its_row():
    assert as_text(REPORT).splitlines() == [
        "a machine",
        "",
        "what     bar        measured  verdict",
        "a thing  at most 2  1.50 ms   held, 25 % to spare",
        "    of 3",
        "another  at most 1  -         not measured",
        "    not installed",
        "",
        (
            "VMs    VM.stat p50, ms  VM.stat p99, ms  VM.list, ms  update, ms"
            "  answers after, s  recovered after, s  RSS, MB"
        ),
        (
            "1,000  0.100            0.200            10.0         0.300     "
            "  0.400             1.00                70.0"
        ),
    ]


def test_a_quick_run_says_that_its_figures_mean_nothing():
    quick = Report(0.0, "a machine", quick=True, rows=ROWS, curves=[])
    assert as_text(quick).splitlines()[2].endswith("the figures mean nothing.")


def test_markdown_has_a_column_for_notes():
    lines = as_markdown(REPORT).splitlines()

    assert lines[2] == "| what | bar | measured | verdict | more |"
    assert lines[4] == "| a thing | at most 2 | 1.50 ms | held, 25 % to spare | of 3 |"
    assert lines[-1] == "| 1,000 | 0.100 | 0.200 | 10.0 | 0.300 | 0.400 | 1.00 | 70.0 |"
