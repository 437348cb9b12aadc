"""What runs the pages sees what it should see."""

import pytest
from rigs.pages import Step, blocks, matches, promised, steps

PAGE = """# A page

```console
$ first
one
$ second \\
> goes on
two
...
```

1. A step

    ```toml title="a.toml"
    a = 1
    ```
"""


def test_blocks_are_found_with_their_lines() -> None:
    console, file = blocks(PAGE)

    assert (console.language, console.line) == ("console", 4)
    assert (file.language, file.title, file.line, file.text) == ("toml", "a.toml", 15, "a = 1\n")


def test_commands_are_told_from_what_they_print() -> None:
    first, second = steps(next(blocks(PAGE)))

    assert (first.line, first.command, first.expected) == (4, "first", "one")
    assert (second.line, second.command) == (6, "second \\\ngoes on")
    assert second.expected == "two\n..."


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        pytest.param("", "", id="nothing"),
        pytest.param("a\n...\nz", "a\nb\nc\nz", id="lines left out"),
        pytest.param("a\n...", "a", id="no lines left out"),
        pytest.param("took ... bytes", "took 17 bytes", id="words left out"),
        pytest.param("pid 1, 0.2 s", "pid 99, 13.1 s", id="what differs from run to run"),
        pytest.param("a  b", "a     b", id="columns"),
        pytest.param("in /src/xenopsd/x", "in /tmp/d/x", id="places"),
    ],
)
def test_what_is_shown_matches(expected: str, printed: str) -> None:
    assert matches(expected, printed, {"/tmp/d": "/src/xenopsd"})


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        pytest.param("", "something", id="more than the page says"),
        pytest.param("something", "", id="less than the page says"),
        pytest.param("running", "halted", id="something else"),
        pytest.param("a\n...\nz", "a\nb", id="no end"),
        pytest.param("a.c", "abc", id="a dot is a dot"),
    ],
)
def test_what_is_not_shown_does_not_match(expected: str, printed: str) -> None:
    assert not matches(expected, printed, {})


def test_what_python_prints_is_promised_beside_it() -> None:
    assert promised("x = 1  # one\n    print(x)  # 1\n") == ["1"]


@pytest.mark.parametrize(
    ("command", "looks"),
    [
        ("xenops list", True),
        ("xenops call HOST.query | grep recovering", True),
        ("xenops start web", False),
        ("xenops task cancel 7", False),
        ("make stop", False),
    ],
)
def test_only_what_changes_nothing_is_repeated(command: str, looks: bool) -> None:
    assert Step(1, command, "").looks is looks
