"""Netlink's messages, and a kernel that does not answer or changes its mind."""

import errno
import os
import socket
import struct
import time

import pytest

from backends.lxc import rtnetlink
from backends.lxc.rtnetlink import Talk
from idl.errors import DeadlineExceeded

DONE, ERROR, LINK = 3, 2, 16


def message(kind: int, body: bytes, flags: int = 0) -> bytes:
    return struct.pack("IHHII", 16 + len(body), kind, flags, 0, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    padding = bytes(-len(value) % 4)
    return struct.pack("HH", 4 + len(value), kind) + value + padding


def link(name: str, alias: str) -> bytes:
    attributes = attribute(3, name.encode() + b"\0") + attribute(20, alias.encode() + b"\0")
    return message(LINK, struct.pack("BxHiII", 0, 1, 7, 1, 0) + attributes)


def failure(number: int, words: bytes = b"") -> bytes:
    said = attribute(1, words + b"\0") if words else b""
    return message(ERROR, struct.pack("i", -number) + bytes(16) + said)


@pytest.fixture
def kernel(monkeypatch):
    """What stands for the kernel: put the answers into it before they are asked for."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setattr(rtnetlink, "_opened", lambda family: ours)
    yield theirs
    ours.close()
    theirs.close()


def test_one_that_does_not_answer_costs_the_deadline(kernel):
    with Talk(time.monotonic() + 0.1) as talk, pytest.raises(DeadlineExceeded, match="netlink"):
        talk.link("eth0")


def soon() -> float:
    return time.monotonic() + 10


def test_an_interface(kernel):
    kernel.send(link("xv0", "xenopsd default vm"))
    with Talk(soon()) as talk:
        found = talk.link("xv0")
    assert found is not None
    assert (found.index, found.name, found.alias) == (7, "xv0", "xenopsd default vm")
    assert found.up
    assert (found.kind, found.peer_netns) == ("", None)


def test_what_is_not_there_is_none(kernel):
    kernel.send(failure(errno.ENODEV))
    with Talk(soon()) as talk:
        assert talk.link("xv0") is None


def test_errors_are_the_kernels_words(kernel):
    kernel.send(failure(errno.EINVAL, b"Not like this"))
    kernel.send(failure(errno.EPERM))
    with Talk(soon()) as talk:
        with pytest.raises(OSError, match="Not like this") as caught:
            talk.set_up(7, up=True)
        assert caught.value.errno == errno.EINVAL
        with pytest.raises(PermissionError, match=os.strerror(errno.EPERM)):
            talk.set_up(7, up=True)


def test_aliases_that_begin_so(kernel):
    every = link("a", "mine 1") + link("b", "not mine 2") + link("c", "mine 3")
    kernel.send(every)
    kernel.send(message(DONE, bytes(4)))
    with Talk(soon()) as talk:
        assert talk.aliases("mine ") == ["a", "c"]


def test_a_list_that_changed_meanwhile_is_asked_for_again(kernel):
    kernel.send(link("a", "mine 1"))
    kernel.send(message(DONE, bytes(4), flags=0x10))
    kernel.send(link("a", "mine 1") + link("b", "mine 2"))
    kernel.send(message(DONE, bytes(4)))
    with Talk(soon()) as talk:
        assert talk.aliases("mine ") == ["a", "b"]


def test_tables_with_and_without_a_comment(kernel):
    comment = attribute(6, bytes([0, 5]) + b"mine\0")
    tables = [attribute(1, b"xv0\0") + comment, attribute(1, b"filter\0")]
    kernel.send(b"".join(message(2560, struct.pack("BBH", 5, 0, 0) + one) for one in tables))
    kernel.send(message(DONE, bytes(4)))
    with Talk(soon(), netfilter=True) as talk:
        assert talk.tables() == {"xv0": "mine", "filter": ""}
