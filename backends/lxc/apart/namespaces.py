"""The namespaces that a container has before its first process: made by a short-lived child,
pinned by bind mounts, so that they last while nobody is in them."""

import contextlib
import os
import socket
from collections.abc import Callable

from backends.lxc.apart.syscalls import (
    CLONE_NEWNET,
    CLONE_NEWUSER,
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    is_mount,
    mount,
    setns,
    umount,
    unshare,
)

#: Ids that a container has.
IDS = 65536

#: What a child does to itself, and then its parent to it, by its pid.
_Step = tuple[Callable[[], None], Callable[[int], None]]


def hold(*, directory: str, first_id: int | None, shown: str) -> None:
    """Pin `DIRECTORY/user`, mapping 0…65535 to `first_id` and on, and in it `DIRECTORY/net`;
    without `first_id` only `net`, in the host's user namespace. Mount at `shown` what is shown
    to the container. What is there already stays."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    os.makedirs(shown, mode=0o755, exist_ok=True)
    if not is_mount(shown):
        # A file system of its own: a bind mount would tell the container where it lies.
        flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
        mount("xsdata", shown, "tmpfs", flags, "size=16m,mode=755")
    _hold(f"{directory}/user", f"{directory}/net", first_id)


def _hold(user: str, net: str, first_id: int | None) -> None:
    steps: list[_Step] = []
    if first_id is not None and not pinned(user, "user"):
        # A network namespace of another user namespace is of no use.
        unpin(net)
        steps.append((lambda: unshare(CLONE_NEWUSER), lambda pid: _own(pid, user, first_id)))
    elif first_id is not None:
        steps.append((lambda: _enter(user), lambda _: None))
    if not pinned(net, "net"):
        # Once ids are mapped: its files belong to whoever is root in it then.
        steps.append((lambda: unshare(CLONE_NEWNET), lambda pid: _pin(pid, "net", net)))
        _in_child(steps)


def release(*, directory: str, shown: str) -> None:
    """Let all of it go; nothing where there is none."""
    with contextlib.suppress(FileNotFoundError):
        if is_mount(shown):
            umount(shown, MNT_DETACH)
    for name in ("net", "user"):
        unpin(f"{directory}/{name}")


def pinned(path: str, kind: str) -> bool:
    """Whether a namespace is pinned there."""
    try:
        return os.stat(path).st_dev == os.stat(f"/proc/self/ns/{kind}").st_dev
    except FileNotFoundError:
        return False


def unpin(path: str) -> None:
    """Let a pinned namespace go; nothing where there is none."""
    while pinned(path, "net"):
        umount(path, MNT_DETACH)


def _enter(user: str) -> None:
    fd = os.open(user, os.O_RDONLY | os.O_CLOEXEC)
    setns(fd, CLONE_NEWUSER)


def _own(pid: int, user: str, first_id: int) -> None:
    _map(pid, first_id)
    _pin(pid, "user", user)


def _map(pid: int, first_id: int) -> None:
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
            file.write(f"0 {first_id} {IDS}\n")


def _pin(pid: int, kind: str, path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    mount(f"/proc/{pid}/ns/{kind}", path, flags=MS_BIND)


def _in_child(steps: list[_Step]) -> None:
    """Have one child take each step, and do after each what is done from outside."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            for step, _ in steps:
                step()
                theirs.send(b"in")
                if not theirs.recv(1):  # the parent is gone
                    break
        except OSError as error:
            theirs.send(str(error).encode())
        finally:
            os._exit(0)
    theirs.close()
    try:
        for _, from_outside in steps:
            said = ours.recv(1024)
            if said != b"in":
                raise OSError(None, said.decode() or "a child that makes namespaces died")
            from_outside(pid)
            ours.send(b".")
    finally:
        ours.close()
        os.waitpid(pid, 0)
