"""The command tree as pages to read: man pages and one page of Markdown. Pure.

What a command says of itself in `--help` is all there is; nothing is written twice.
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import click

from xenopsd.cli.failure import EXIT_CODES

_ENVIRONMENT = {
    "XENOPS_SOCKET": "Socket of the daemon, as --socket.",
    "XENOPSD_INSTANCE": "Instance to talk to, as --instance.",
    "XENOPSD_RUN_DIR": "Directory of the instances' sockets.",
    "EDITOR": "Editor of xenops edit.",
    "NO_COLOR": "Where it is set, terminals get no colours.",
}


@dataclass(frozen=True, slots=True)
class Page:
    """What a command says of itself; `commands` are those below it."""

    name: str
    summary: str
    usage: str
    prose: tuple[str, ...]
    examples: tuple[str, ...]
    options: tuple[tuple[str, str], ...]
    commands: tuple["Page", ...]


def page(command: click.Command, path: str) -> Page:
    """The page of a command and of those below it."""
    summary, *rest = [_joined(one) for one in _paragraphs(command) if not one.startswith("\b")]
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return Page(
        name=path,
        summary=summary,
        usage=_usage(command, path),
        prose=tuple(rest),
        examples=tuple(_examples(command)),
        options=tuple(_options(command)),
        commands=tuple(page(one, f"{path} {one.name}") for one in below if not one.hidden),
    )


def _paragraphs(command: click.Command) -> list[str]:
    return re.split(r"\n\n+", inspect.cleandoc(command.help or ""))


def _joined(paragraph: str) -> str:
    return " ".join(paragraph.split())


def _examples(command: click.Command) -> Iterator[str]:
    for paragraph in _paragraphs(command):
        lines = paragraph.splitlines()
        if paragraph.startswith("\b") and "Examples:" in paragraph:
            yield from (line.strip() for line in lines[2:])


def _usage(command: click.Command, path: str) -> str:
    arguments = [_argument(one) for one in command.params if isinstance(one, click.Argument)]
    below = ["COMMAND"] if isinstance(command, click.Group) else []
    return " ".join([path, "[OPTIONS]", *arguments, *below])


def _argument(argument: click.Argument) -> str:
    if argument.metavar:
        text = argument.metavar
    elif isinstance(argument.type, click.Choice):
        text = "|".join(map(str, argument.type.choices))
    else:
        text = str(argument.name).upper()
    return text if argument.required or text.startswith("[") else f"[{text}]"


def _options(command: click.Command) -> Iterator[tuple[str, str]]:
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            names = ", ".join(option.opts)
            if option.secondary_opts:
                names += " / " + ", ".join(option.secondary_opts)
            yield f"{names}{_value(option)}", f"{option.help or ''}{_default(option)}"


def _value(option: click.Option) -> str:
    if option.is_flag:
        return ""
    if option.metavar:
        return f" {option.metavar}"
    if isinstance(option.type, click.Choice):
        return " " + "|".join(map(str, option.type.choices))
    return f" {option.type.name.split()[0].upper()}"


def _default(option: click.Option) -> str:
    if not option.show_default:
        return ""
    value: Any = option.default
    if option.is_flag and option.secondary_opts:
        value = (option.opts if value else option.secondary_opts)[0]
    return f" [default: {value}]"


# Man pages


def manual(page: Page) -> str:
    """The man page of a command, in roff."""
    dashed = page.name.replace(" ", "-")
    lines = [
        f'.TH "{dashed.upper()}" "1" "" "xenopsd" "User Commands"',
        ".nh",
        ".SH NAME",
        f"{_roff(dashed)} \\- {_roff(page.summary.rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {_roff(page.usage)}",
        ".SH DESCRIPTION",
        _roff(page.summary),
        *(line for paragraph in page.prose for line in (".PP", _roff(paragraph))),
        *_roff_list("OPTIONS", page.options),
    ]
    top = " " not in page.name
    if top:
        commands = [(one.name, one.summary) for one in page.commands]
        lines += _roff_list("COMMANDS", commands)
    else:
        lines += [line for one in page.commands for line in _roff_command(one)]
    lines += _roff_examples(page.examples)
    lines += _roff_list("EXIT STATUS", [(str(code), what) for code, what in EXIT_CODES.items()])
    lines += _roff_list("ENVIRONMENT", _ENVIRONMENT.items()) if top else []
    lines += [] if top else [".SH SEE ALSO", ".BR xenops (1)"]
    return "\n".join(lines) + "\n"


def daemon_manual(page: Page, lists: Mapping[str, Iterable[tuple[str, str]]]) -> str:
    """The man page of the daemon: what its `--help` says, and lists of names and words."""
    lines = [
        f'.TH "{page.name.upper()}" "8" "" "xenopsd" "System Administration"',
        ".nh",
        ".SH NAME",
        f"{_roff(page.name)} \\- {_roff(page.summary.rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {_roff(page.usage)}",
        ".SH DESCRIPTION",
        _roff(page.summary),
        *(line for paragraph in page.prose for line in (".PP", _roff(paragraph))),
        *_roff_list("OPTIONS", page.options),
        *(line for title, pairs in lists.items() for line in _roff_list(title, pairs)),
        *_roff_examples(page.examples),
    ]
    return "\n".join([*lines, ".SH SEE ALSO", ".BR xenops (1)"]) + "\n"


def _roff_command(page: Page) -> Iterator[str]:
    """A command of a group, as a section of the group's page."""
    yield f'.SH "{_roff(page.name.upper())}"'
    yield f".B {_roff(page.usage)}"
    for paragraph in (page.summary, *page.prose):
        yield from (".PP", _roff(paragraph))
    for names, words in page.options:
        yield from (".TP", f".B {_roff(names)}", _roff(words))
    yield from _roff_block(page.examples)


def _roff_list(title: str, pairs: Iterable[tuple[str, str]]) -> list[str]:
    lines = [line for name, words in pairs for line in (".TP", f".B {_roff(name)}", _roff(words))]
    return [f".SH {title}", *lines] if lines else []


def _roff_examples(examples: tuple[str, ...]) -> list[str]:
    return [".SH EXAMPLES", *_roff_block(examples)] if examples else []


def _roff_block(lines: tuple[str, ...]) -> list[str]:
    return [".PP", ".nf", *(".RS 4\n" + _roff(line) + "\n.RE" for line in lines), ".fi"]


def _roff(text: str) -> str:
    """Text in which nothing is a request or an escape."""
    safe = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return f"\\&{safe}" if safe[:1] in (".", "'") else safe


# Markdown

_HEAD = """\
# xenops

The administrator's command. This page is rendered from what the commands say of themselves
(`xenops COMMAND --help`) by `python -m xenopsd.cli.generate`; the man pages are, too.

## Conventions

- A command that starts an operation waits for its end, with a progress bar on a terminal.
  `--no-wait` prints the task id and returns. Ctrl-C once asks the daemon to cancel and goes on
  watching; twice leaves the task to itself and prints its id.
- Lists are tables with colours on a terminal and aligned columns in a pipe. `-o` is one of table,
  wide, json, yaml, name; `-c COLUMN,…` chooses columns.
- Results go to stdout; errors, progress and questions to stderr. An error is one sentence, and
  below it what to do next.
- Questions are asked on a terminal alone; `--yes` answers them, and in a pipe nothing is asked.

## Exit codes

| code | meaning |
|---|---|
"""


def markdown(page: Page) -> str:
    """The whole tree as one page."""
    codes = "".join(f"| {code} | {what} |\n" for code, what in EXIT_CODES.items())
    names = "".join(f"| `{name}` | {what} |\n" for name, what in _ENVIRONMENT.items())
    text = f"{_HEAD}{codes}\n## Environment\n\n| variable | |\n|---|---|\n{names}\n## Commands\n"
    return text + "".join(_section(one) for one in (page, *_leaves(page)))


def _leaves(page: Page) -> Iterator[Page]:
    for one in page.commands:
        yield one
        yield from _leaves(one)


def _section(page: Page) -> str:
    parts = [f"### {page.name}", " ".join([page.summary, *page.prose])]
    parts.append("```\n" + "\n".join([f"{page.usage}", *_indented(page.options)]) + "\n```")
    if page.examples:
        parts.append("```\n" + "\n".join(f"$ {line}" for line in page.examples) + "\n```")
    return "\n" + "\n\n".join(parts) + "\n"


def _indented(options: tuple[tuple[str, str], ...]) -> Iterator[str]:
    width = max((len(names) for names, _ in options), default=0)
    yield from (f"  {names.ljust(width)}  {words}" for names, words in options)
