"""Namespaces that last while nobody is in them."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.lxc.apart import namespaces

FIRST_ID = 2_684_354_560
#: Of linux/nsfs.h: a descriptor of the user namespace that owns a namespace.
NS_GET_USERNS = 0xB701


class Held:
    """Where the namespaces are pinned."""

    def __init__(self, path: Path) -> None:
        self.user, self.net = path / "ns" / "user", path / "ns" / "net"
        self._places = {"directory": str(path / "ns"), "shown": str(path / "xsdata")}

    def hold(self, first_id: int | None = FIRST_ID) -> None:
        namespaces.hold(first_id=first_id, **self._places)

    def release(self) -> None:
        namespaces.release(**self._places)

    def owner(self) -> int:
        """The number of the user namespace that owns the network namespace."""
        with self.net.open() as file:
            found = fcntl.ioctl(file, NS_GET_USERNS)
        try:
            return os.fstat(found).st_ino
        finally:
            os.close(found)


@pytest.fixture
def held(tmp_path) -> Iterator[Held]:
    found = Held(tmp_path.resolve())
    try:
        yield found
    finally:
        found.release()


def test_the_network_belongs_to_the_users(held):
    held.hold()
    assert held.owner() == held.user.stat().st_ino != Path("/proc/self/ns/user").stat().st_ino


def test_what_is_there_stays(held):
    held.hold()
    before = held.user.stat().st_ino, held.net.stat().st_ino
    held.hold()
    assert (held.user.stat().st_ino, held.net.stat().st_ino) == before


def test_half_done_it_is_finished(held):
    held.hold()
    user = held.user.stat().st_ino
    namespaces.unpin(str(held.net))
    held.hold()
    assert held.owner() == held.user.stat().st_ino == user


def test_a_network_of_other_users_is_made_anew(held):
    held.hold()
    namespaces.unpin(str(held.user))
    held.hold()
    assert held.owner() == held.user.stat().st_ino


def test_without_a_map_the_network_is_the_hosts_users(held):
    held.hold(first_id=None)
    assert held.owner() == Path("/proc/self/ns/user").stat().st_ino
    assert not held.user.exists()


def test_nothing_is_left(held):
    held.hold()
    held.release()
    assert str(held.user.parent.parent) not in Path("/proc/self/mounts").read_text()
