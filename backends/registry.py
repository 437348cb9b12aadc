"""Backends by name: entry points of the group `xenopsd.backends`."""

from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import entry_points

from msgspec import Struct

from backends.interface import Available, Plugin, Unavailable

GROUP = "xenopsd.backends"


def load(name: str) -> Plugin:
    """The plugin of that name. Raises LookupError naming those that exist."""
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in found:
        raise LookupError(f"there is no backend {name}; choose from {', '.join(sorted(found))}")
    plugin: Plugin = found[name].load()()
    return plugin


def probe() -> Mapping[str, Available | Unavailable]:
    """What each installed backend says of this machine.

    A plugin that cannot even be imported is unavailable, with that as its reason.
    """
    answers: dict[str, Available | Unavailable] = {}
    for entry in entry_points(group=GROUP):
        try:
            answers[entry.name] = entry.load()().probe()
        except ImportError as error:
            answers[entry.name] = Unavailable(f"{error.name or entry.value} is not installed")
    return answers


def options() -> Mapping[str, type[Struct]]:
    """The section of the configuration of each backend that can be imported."""
    found: dict[str, type[Struct]] = {}
    for entry in entry_points(group=GROUP):
        # What cannot be imported is told by `probe`.
        with suppress(ImportError):
            found[entry.name] = entry.load()().options
    return found


def best(answers: Mapping[str, Available | Unavailable]) -> str:
    """The name of the available backend with the highest rank. Raises LookupError."""
    ranks = {name: a.rank for name, a in answers.items() if isinstance(a, Available)}
    if not ranks:
        raise LookupError("no backend can run on this machine")
    return max(ranks, key=lambda name: (ranks[name], name))
