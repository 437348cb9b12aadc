"""What a container can reach of its host: looked at from inside and from outside."""

import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from rigs.container import Images

from backends.interface import Settings
from backends.lxc.plugin import Options, Plugin
from idl.vbd import Local, Vbd
from idl.vm import Container, Vm

#: What the containers do: each line's output goes to a file of their root.
PROBE = """#!/bin/busybox sh
/bin/busybox --install -s /bin 2>/dev/null
exec >/out 2>&1
ls -l /proc/$$/fd | sed -n 's/.* \\([0-9]*\\) -> /fd \\1 /p'
env | sed 's/^/env /'
grep -E 'Sig(Blk|Ign)|Cap|Seccomp:|NoNewPrivs' /proc/1/status | sed 's/^/status /'
sed 's/^/mount /' /proc/self/mountinfo
tries() { if "$@" 2>/dev/null; then echo "did $*"; else echo "could-not $*"; fi; }
tries sh -c 'echo 1 >/proc/sys/kernel/panic'
tries sh -c 'echo 1 >/proc/sys/vm/drop_caches'
tries sh -c 'echo h >/proc/sysrq-trigger'
tries sh -c 'echo 1 >/sys/kernel/mm/ksm/run'
tries mknod /tmp/disk b 254 0
tries dd if=/tmp/disk of=/dev/null count=1
tries dmesg
tries sh -c 'echo 5 >/proc/sys/net/ipv4/ip_forward'
tries insmod /nothing.ko
tries date -s 2001-01-01
tries chroot /proc/1/root true
tries mount -t proc none /tmp
ps -o pid | sed 's/^/pid /'
echo end
while :; do sleep 1; done
"""


class Probe:
    """One container that has looked around."""

    def __init__(self, directory: Path, backend, name: str, *, privileged: bool) -> None:
        self.backend = backend
        guest = Container(
            init=["/probe"], privileged=privileged, environment={"GIVEN": " a = 'b' "}
        )
        self.vm = Vm(id=name, guest=guest, vcpu_max=1, memory_static_max=2**26)
        self.incarnation = str(uuid.uuid4())
        root = Local(path=str(directory), format="directory", overlay=True)
        self.root = Vbd(id=f"{name}/root", position=0, backend=root)

    def call(self, micro_op: str):
        return _Call(micro_op, self.incarnation)

    def start(self) -> None:
        ops = self.backend.vm
        ops.create(self.call("vm_create"), self.vm, self.vm.memory_static_max)
        ops.build(self.call("vm_build"), self.vm, [self.root], [])
        assert self.backend.vbd.plug(self.call("vbd_plug"), self.vm, self.root) is None
        ops.unpause(self.call("vm_unpause"), self.vm)

    def destroy(self) -> None:
        assert self.backend.vm.destroy(self.call("vm_destroy"), self.vm) is None
        # The next one is not to find what this one has written.
        self.backend.vm.remove(self.call("vm_remove_layers"), self.vm.id, [self.root])

    def record(self):
        return self.backend.vm.machine.record(self.vm.id)

    def init(self) -> int:
        return self.backend.vm.machine.init(self.record())

    def said(self) -> list[str]:
        """What it has found, once it is through."""
        out = Path(f"/proc/{self.init()}/root/out")
        return out.read_text().splitlines() if out.exists() else []


class _Call:
    def __init__(self, micro_op: str, incarnation: str) -> None:
        self.micro_op = micro_op
        self.incarnation = incarnation
        self.deadline = time.monotonic() + 30

    def checkpoint(self) -> None:
        pass

    def pause(self, seconds: float | None) -> None:
        pass

    def progress(self, fraction: float) -> None:
        pass


@pytest.fixture(scope="module")
def host() -> Iterator[tuple[Path, object]]:
    """A backend, and the directory of an image whose first process looks around."""
    directory = Path(tempfile.mkdtemp(prefix="xenopsd-")).resolve()
    directory.chmod(0o755)
    image = directory / "image"
    shutil.copytree(Images(directory).directory, image, symlinks=True)
    (image / "probe").write_text(PROBE)
    (image / "probe").chmod(0o755)
    settings = Settings(
        instance="isolation",
        state_dir=directory / "state",
        run_dir=directory / "run",
        options=Options(),
        disks=[directory],
    )
    backend = Plugin().open(settings)
    yield image, backend
    backend.close()
    subprocess.run(["umount", "--lazy", directory / "run" / "lxc"], check=True)
    shutil.rmtree(directory)


@pytest.fixture(params=[False, True], ids=["unprivileged", "privileged"])
def privileged(request) -> bool:
    return request.param


@pytest.fixture
def probe(host, privileged, eventually) -> Iterator[Probe]:
    image, backend = host
    found = Probe(image, backend, "probe", privileged=privileged)
    found.start()
    try:
        eventually(lambda: "end" in found.said())
        yield found
    finally:
        found.destroy()


def words(said: list[str], kind: str) -> list[str]:
    return [line.removeprefix(f"{kind} ") for line in said if line.startswith(f"{kind} ")]


def test_no_descriptor_but_the_console_gets_in(probe):
    found = {int(line.split()[0]): line.split()[1] for line in words(probe.said(), "fd")}
    # The shell's own is its script.
    assert {fd for fd, to in found.items() if to != "/probe"} == {0, 1, 2}
    assert found[0] == "/dev/console" or found[0].startswith("/dev/pts/")
    assert {found[1], found[2]} == {"/out"}


def test_the_environment_is_what_was_given(probe):
    found = dict(line.split("=", 1) for line in words(probe.said(), "env"))
    assert found.keys() <= {"GIVEN", "container", "PATH", "PWD", "SHLVL", "OLDPWD"}
    assert found["GIVEN"] == " a = 'b' "


def test_no_signal_is_blocked_or_ignored(probe):
    found = dict(line.split(":\t") for line in words(probe.said(), "status"))
    assert int(found["SigBlk"], 16) == 0
    # The shell itself ignores SIGQUIT.
    assert int(found["SigIgn"], 16) & ~(1 << 2) == 0


def test_seccomp_is_on_and_capabilities_are_dropped(probe):
    found = dict(line.split(":\t") for line in words(probe.said(), "status"))
    assert found["Seccomp"] == "2"
    bounds = int(found["CapBnd"], 16)
    for name, bit in {"sys_module": 16, "sys_rawio": 17, "sys_time": 25, "mac_admin": 33}.items():
        assert not bounds & 1 << bit, name


def test_no_path_of_the_host_is_told(probe, host):
    image, _ = host
    told = [line for line in words(probe.said(), "mount") if str(image.parent) in line]
    assert told == []


def test_what_would_reach_the_host_is_refused(probe, privileged):
    could_not = set(words(probe.said(), "could-not"))
    for what in (
        "sh -c echo 1 >/proc/sys/kernel/panic",
        "sh -c echo 1 >/proc/sys/vm/drop_caches",
        "sh -c echo h >/proc/sysrq-trigger",
        "sh -c echo 1 >/sys/kernel/mm/ksm/run",
        "dd if=/tmp/disk of=/dev/null count=1",
        "dmesg",
        "insmod /nothing.ko",
    ):
        assert what in could_not
    assert time.gmtime().tm_year != 2001
    if not privileged:
        assert "mknod /tmp/disk b 254 0" in could_not


def test_its_own_network_is_its_own(probe):
    assert "sh -c echo 5 >/proc/sys/net/ipv4/ip_forward" in words(probe.said(), "did")


def test_it_sees_its_own_processes_alone(probe):
    pids = [int(pid) for pid in words(probe.said(), "pid") if pid.strip().isdigit()]
    assert 1 in pids
    assert len(pids) < 20


def test_from_outside_root_is_nobody(probe, privileged):
    status = Path(f"/proc/{probe.init()}/status").read_text()
    uid = int(next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1])
    assert uid == probe.record().first_id
    assert (uid == 0) == privileged


def test_every_namespace_is_its_own(probe, privileged):
    def namespaces(pid: int | str) -> dict[str, str]:
        return {
            kind: str(Path(f"/proc/{pid}/ns/{kind}").readlink())
            for kind in ("mnt", "pid", "net", "uts", "ipc", "cgroup", "user")
        }

    ours, theirs = namespaces("self"), namespaces(probe.init())
    shared = {kind for kind in ours if ours[kind] == theirs[kind]}
    assert shared == ({"user"} if privileged else set())


def test_what_it_writes_belongs_to_root_on_disk(probe, host):
    _, backend = host
    layer = backend.vm.machine.storage.state / "layers" / "probe" / "root" / "upper" / "out"
    assert (layer.stat().st_uid, layer.stat().st_gid) == (0, 0)


def test_ranges_of_ids_are_disjoint(host):
    image, backend = host
    both = [Probe(image, backend, name, privileged=False) for name in ("one", "two")]
    try:
        for found in both:
            found.start()
        maps = [Path(f"/proc/{found.init()}/uid_map").read_text().split() for found in both]
        firsts = sorted(int(first) for _, first, _ in maps)
        assert [size for _, _, size in maps] == ["65536", "65536"]
        assert firsts[1] - firsts[0] >= 65536
    finally:
        for found in both:
            found.destroy()
