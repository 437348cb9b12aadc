"""The image for containers: in each form, and what its guest does, under liblxc alone.

It is also where liblxc's own doings with control groups are seen: that it makes them where
`backends.lxc.cgroup` looks, sets the limits, and leaves what can be removed.
"""

import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from rigs.container import DEAF, Images, Init, init_among

from backends.lxc import limits
from backends.lxc.cgroup import Cgroups, Group
from backends.lxc.limits import Limits

LIMITS = Limits(memory=2**26, cpus=frozenset({0}), pids=50, weight=512, cap=90)

SIGNALS = {"poweroff": "-USR2", "reboot": "-TERM"}


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Images:
    return Images(tmp_path_factory.getbasetemp())


@pytest.fixture
def group() -> Iterator[Group]:
    """Where a container goes; nothing is left of it."""
    top = f"xenopsd-test-{uuid.uuid4().hex[:8]}"
    host = Cgroups.found()
    try:
        yield host.group(f"{top}/host/vm/incarnation")
    finally:
        whole = host.group(top)
        assert whole.kill(time.monotonic() + 30)
        assert whole.remove(time.monotonic() + 30)


@pytest.fixture
def start(tmp_path, images, group, eventually) -> Iterator[Callable[..., Init]]:
    """Start a container with liblxc, and wait until its first process is there."""
    with ExitStack() as after:

        def run(init: str = "/sbin/init") -> Init:
            root = tmp_path / "root"
            subprocess.run(["cp", "-a", images.directory, root], check=True)
            (tmp_path / "config").write_text(_config(root, init, group))
            command = ["lxc-start", "-F", "-n", "guest", "-P", tmp_path, "-f", tmp_path / "config"]
            null = subprocess.DEVNULL
            monitor = subprocess.Popen(command, stdin=null, stdout=null, stderr=null)
            after.callback(_end, group, monitor)
            eventually(lambda: init_among(group.pids()) or monitor.poll() is not None)
            assert monitor.poll() is None, (tmp_path / "log").read_text()
            found = init_among(group.pids())
            assert found is not None
            return found

        yield run


def _end(group: Group, monitor: subprocess.Popen) -> None:
    group.kill(time.monotonic() + 30)
    monitor.wait(30)


def _config(root: Path, init: str, group: Group) -> str:
    lines = [
        ("lxc.uts.name", "guest"),
        ("lxc.rootfs.path", f"dir:{root}"),
        ("lxc.init.cmd", init),
        ("lxc.net.0.type", "empty"),
        ("lxc.mount.auto", "proc:mixed sys:ro"),
        ("lxc.cgroup.dir.container", f"{group.path}/c"),
        ("lxc.cgroup.dir.container.inner", "i"),
        ("lxc.cgroup.dir.monitor", f"{group.path}/m"),
        ("lxc.cgroup.dir.monitor.pivot", f"{group.path}/p"),
        ("lxc.tty.max", "0"),
        ("lxc.log.file", f"{root.parent}/log"),
        ("lxc.hook.version", "1"),
        ("lxc.hook.post-stop", "/bin/false"),
        *limits.config(LIMITS, Cgroups.found().controllers),
    ]
    return "".join(f"{key} = {value}\n" for key, value in lines)


def _names(listing: str) -> set[str]:
    return {line.strip().removeprefix("./").rstrip("/") for line in listing.splitlines()}


def _run(*command: object) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_each_form_has_the_same_files(images):
    paths = images.directory.rglob("*")
    expected = {str(path.relative_to(images.directory)) for path in paths}
    packed = _names(_run("tar", "-tf", images.tar))
    assert packed - {"", "."} == expected
    squashed = _run("unsquashfs", "-l", "-d", "", images.squashfs)
    assert {name.lstrip("/") for name in _names(squashed)} - {""} == expected
    assert "sbin/init" in expected


def test_an_image_is_not_overwritten(images):
    answer = subprocess.run(
        ["packaging/busybox-image", images.directory], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 1
    assert "exists" in answer.stderr


def test_half_an_image_is_never_there(images, tmp_path):
    command = ["packaging/busybox-image", tmp_path / "image.squashfs"]
    environment = {"PATH": "/usr/bin:/bin", "BUSYBOX": "/bin/ls"}
    answer = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert answer.returncode == 1
    assert list(tmp_path.iterdir()) == []


def test_the_guest_beats(start, eventually):
    init = start()
    eventually(lambda: init.beats() > 1)


@pytest.mark.parametrize("what", ["poweroff", "reboot", "crash"])
def test_the_guest_obeys(start, group, eventually, what):
    init = start()
    eventually(init.beats)
    init.obey(what)
    eventually(lambda: not group.populated())


@pytest.mark.parametrize("what", SIGNALS)
def test_the_guest_hears_signals(start, group, eventually, what):
    init = start()
    eventually(init.beats)
    subprocess.run(["kill", SIGNALS[what], str(init.pid)], check=True)
    eventually(lambda: not group.populated())


def test_a_deaf_guest_hears_none(start, group):
    init = start(" ".join(DEAF))
    for signal in (*SIGNALS.values(), "-INT", "-PWR"):
        subprocess.run(["kill", signal, str(init.pid)], check=True)
    assert Path(f"/proc/{init.pid}").exists()
    assert group.kill(time.monotonic() + 30)


def test_liblxc_makes_the_groups_where_they_are_looked_for(start, group, eventually):
    init = start()
    container, monitor = (Cgroups.found().group(f"{group.path}/{name}") for name in "cm")
    assert init.pid in container.pids()
    # liblxc has children for a moment that map ids for it.
    eventually(lambda: len(monitor.pids()) == 1)
    for tree in Cgroups.found().hierarchies:
        assert (tree.base / container.path / "i/cgroup.procs").exists()


def test_liblxc_sets_the_limits(start, group):
    start()
    container = Cgroups.found().group(f"{group.path}/c")
    for key, value in limits.config(LIMITS, Cgroups.found().controllers):
        name = key.split(".", 2)[2]
        if not name.startswith("devices."):
            assert container._content(name).strip() == value
    allowed = container._content("devices.list").split("\n")
    assert not allowed[0] or "c 1:3 rwm" in allowed


def test_a_device_that_is_not_allowed_is_refused(start, eventually):
    init = start()
    eventually(init.beats)
    # 10:237 is the control device of loop devices.
    attempt = "mknod /tmp/l c 10 237 && cat /dev/zero | head -c 1 | cat && cat /tmp/l"
    command = ["nsenter", "-t", str(init.pid), "-m", "-p", "-C", "-r", "/bin/sh", "-c", attempt]
    groups = Path(f"/proc/{init.pid}/cgroup").read_text()
    answer = _within(groups, command)
    assert answer.stdout == "\0"
    assert "Operation not permitted" in answer.stderr


def _within(groups: str, command: list[str]) -> subprocess.CompletedProcess:
    """Run something in the control groups of another process."""
    enter = []
    for tree in Cgroups.found().hierarchies:
        names = ",".join(sorted(tree.controllers)) if not tree.v2 else ""
        path = next(
            p for n, p in (line.split(":")[1:] for line in groups.splitlines()) if n == names
        )
        enter.append(f"echo $$ > {tree.base}{path}/cgroup.procs")
    script = "; ".join([*enter, 'exec "$@"'])
    return subprocess.run(
        ["sh", "-c", script, "sh", *command], capture_output=True, text=True, check=False
    )


def test_nothing_is_left_once_it_was_removed(start, group):
    start()
    assert group.kill(time.monotonic() + 30)
    assert group.remove(time.monotonic() + 30)
    assert not group.exists
