"""The daemon on real containers, in which case after case is carried out."""

import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from crash.bench import BYSTANDER, Lab
from crash.cases import Bench
from crash.containers.world import Outside, Seen, kill, points, text
from rigs.container import Act, Images
from rigs.daemon import DaemonProcess, eventually
from rigs.outside import untidy

from backends.lxc import image
from backends.lxc.cgroup import Cgroups
from idl.vbd import Local, Mount, Vbd
from idl.vif import Bridge, Locked, Vif
from idl.vm import Container, Vm
from xenopsd.configure import derived_mac

#: Seconds between two beats of a guest, and what a slow machine makes of them.
BEAT = 20.0

#: A file in a container's memory.
KEPT = "run/kept"

_images = threading.Lock()

Kind = TypeVar("Kind", bound="ContainerLab")


@dataclass(frozen=True)
class Bed(Bench):
    """A running daemon, the VM that an operation is about, and what is seen of it."""

    lab: "ContainerLab"

    def look(self) -> Seen:
        return self.lab.look(self.vm)

    def local(self, name: str) -> Local:
        """A directory of its own."""
        path = self.lab.images.kept / f"{self.lab.directory.name}-{self.vm}-{name}"
        path.mkdir(exist_ok=True)
        return Local(path=str(path), format="directory")

    def up(self) -> None:
        """Wait until its guest has booted so far that it obeys."""

        def beats() -> bool:
            init = self.look().init
            return init is not None and init.beats() > 0

        eventually(beats, deadline=BEAT, why=f"{self.vm} beats")


class ContainerLab(Lab):
    """A directory with a daemon whose instance nobody else has. `lost` are processes of a container
    that were killed beside it."""

    lost: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except BaseException:
            self.clear()
            raise

    def _daemon(self) -> DaemonProcess:
        self.instance = f"s{uuid.uuid4().hex[:8]}"
        self.directory.chmod(0o755)
        with _images:
            self.images = Images(self.directory.parent / "images")
            self.images.kept.mkdir(exist_ok=True)
            assert self.images.directory
            assert self.images.squashfs
        config = self.directory / "config.toml"
        config.write_text(self._config())
        daemon = DaemonProcess(
            self.directory, "--config", str(config), "--instance", self.instance, backend="lxc"
        )
        daemon.socket = daemon.run_dir / f"{self.instance}.sock"
        self.outside = Outside(daemon.state_dir, daemon.run_dir, self.instance)
        return daemon

    def _config(self) -> str:
        return (
            "reboot.delay = 0.02\n"
            f'paths.disks = ["{self.images.kept}"]\n'
            f'lxc.bridges = ["{self.instance}b"]\n'
        )

    def close(self) -> None:
        """End it, and leave nothing."""
        with suppress(Exception):
            for vm in self.client.vm.list():
                self.client.run(self.client.vm.shutdown(vm.id), 30.0)
        self.client.close()
        self.daemon.kill()
        self.clear()
        shutil.rmtree(self.directory)

    def abandon(self) -> None:
        """End it and what it ran, and leave its files."""
        self.client.close()
        self.daemon.kill()
        self.clear()

    def clear(self) -> None:
        """Everything that is not a file: processes, groups, mounts, interfaces."""
        outside = self.outside
        places = [*(outside.lxc / outside.instance).glob("*")]
        for place in places:
            for pid in outside.look(place.name).processes:
                kill(pid, signal.SIGKILL)
        for pid in outside.servers():
            kill(pid, signal.SIGKILL)
        eventually(lambda: not any(outside.look(p.name).processes for p in places))
        for place in places:
            seen = outside.look(place.name)
            for link in seen.links:
                subprocess.run(["ip", "link", "delete", link.name], check=False)
            for table in seen.tables:
                subprocess.run(["nft", "delete", "table", "netdev", table], check=False)
        assert Cgroups.found().group(outside.names.group()).remove(time.monotonic() + 10.0)
        for point in sorted(points(), reverse=True):
            if point.startswith(f"{outside.run}/"):
                subprocess.run(["umount", "--lazy", point], check=False)
        bridge = Path("/sys/class/net") / outside.bridge
        if bridge.exists():
            subprocess.run(["ip", "link", "delete", outside.bridge], check=False)

    def look(self, vm: str) -> Seen:
        return self.outside.look(vm)

    def bed(self, vm: str) -> Bed:
        return Bed(self.client, vm, self)

    def restart(self, *, recovered: bool) -> None:
        """Kill it and start it again; whether to wait for its repairs."""
        self.client.close()
        self.daemon.kill()
        if recovered:
            self._start()
        else:
            self.daemon.start()
            self.client = self.daemon.client()

    def hold(self, vm: str) -> Seen:
        """A VM is as it must be, and the daemon says what it is."""
        seen = self.look(vm)
        self._hold_consistent(seen, vm)
        self._hold_answers(seen, vm)
        return seen

    def _hold_answers(self, seen: Seen, vm: str) -> None:
        super()._hold_answers(seen, vm)
        if seen.config is not None:
            shown = self.client.vm.stat(vm).state.consoles
            served = seen.init is not None and bool(self.outside.signed(vm, "console"))
            assert bool(shown) == served, f"consoles: {shown}"

    def hold_instance(self) -> None:
        """The same of everything that is not one VM's."""
        self._hold_instance()

    def _bench(self, vm: str) -> Bed:
        return self.bed(vm)

    def _run(self, bench: Bench) -> None:
        assert isinstance(bench, Bed)
        running(bench)

    def _call(self, called: Any) -> None:
        if isinstance(called, tuple):
            self._act(*called)
        else:
            self.client.send(called)

    def _act(self, act: Act, vm: str) -> None:
        """Have the guest do it, and wait until that has been dealt with, or the daemon died."""
        init, process = self.look(vm).init, self.daemon.process
        assert init is not None
        assert process is not None
        init.obey(act)

        def over() -> bool:
            seen = self.look(vm)
            dealt = seen.init != init and seen.power in ("running", "halted")
            return dealt or process.poll() is not None

        eventually(over, why=f"{act} is dealt with")

    def _hold_consistent(self, seen: Seen, vm: str) -> None:
        """What runs is intact, what does not run has left nothing."""
        assert seen.claimed == (seen.config is not None), f"a claim: {seen.claimed}"
        assert not seen.leftovers, f"in its directory: {seen.leftovers}"
        words = ("running", "paused", "suspended", "halted", "absent")
        assert seen.power in words, f"it is {seen.power}"
        if seen.init is None:
            remains = seen.remains
            assert not remains, f"{seen.power}, and there is {remains}"
            if seen.power == "suspended":
                _hold_image(seen, vm)
            return
        self._hold_intact(seen, vm)

    def _hold_intact(self, seen: Seen, vm: str) -> None:
        domain, place = seen.domain, self.outside.place(vm)
        assert domain is not None, "it runs, and has no record"
        assert len(seen.inits) == 1, f"it runs more than once: {seen.inits}"
        memory = [path for path in seen.images if path.name != ".yard"]
        assert not memory, f"images of what runs: {memory}"
        assert seen.extra["settled"], "no operation has ended for its domain"
        marks = [domain[m] for m in ("instance", "vm", "incarnation")]
        assert marks == [self.instance, vm, seen.extra["incarnation"]], f"marks: {marks}"
        incarnation = domain["incarnation"]
        lives = {Path(group).parts for group in seen.groups}
        others = [p for p in lives if vm in p[:-1] and incarnation not in p]
        assert not others, f"groups of other lives: {others}"
        assert all(link.incarnation == incarnation for link in seen.links), seen.links
        assert all(link.up and link.bridge == self.outside.bridge for link in seen.links)
        assert seen.tables == {link.name for link in seen.links}, f"tables: {seen.tables}"
        assert len(seen.ranges) == 1, f"ids: {seen.ranges}"
        assert incarnation in seen.ranges[0], f"ids: {seen.ranges}"
        inside = {f"eth{vif['position']}" for vif in domain.get("vifs", {}).values()}
        assert inside <= seen.inside, f"in the container are up: {sorted(seen.inside)}"
        for process in {"keeper", "console"} - self.lost:
            pid = int((place / process).read_text())
            assert pid in seen.processes, f"there is no {process}"
        names = {id.partition("/")[2]: vbd for id, vbd in domain["vbds"].items()}
        assert set(names) == seen.disks, f"mounted on the host: {sorted(seen.disks)}"
        missing = {vbd["target"] for vbd in names.values()} - seen.shown
        assert not missing, f"its container does not see {missing}"
        passing = {layer for layer in seen.layers if "@" in layer}
        # Until it runs, what comes back from an image leaves that its layers.
        restored = domain.get("restored", False)
        lives = (f"@{incarnation}", *(["@suspended"] if restored else []))
        own = {layer for layer in passing if layer.endswith(lives)}
        assert passing == own, f"layers of other lives: {passing - own}"
        self._hold_beating(seen)

    def _hold_beating(self, seen: Seen) -> None:
        init = seen.init
        assert init is not None
        if seen.frozen:
            return
        assert (init.root / "sbin/init").exists(), "it has no root file system"
        was = init.beats()
        eventually(lambda: init.beats() > was, deadline=BEAT, why="its heart beats")

    def _hold_instance(self) -> None:
        """Nothing is left lying about, nobody else was touched."""
        outside = self.outside
        eventually(lambda: not self._astray(), deadline=10.0, why=f"astray: {outside.astray()}")
        store, run_dir = self.daemon.state_dir / "vm", self.daemon.run_dir
        eventually(lambda: not untidy(store, run_dir), why=f"untidy: {untidy(store, run_dir)}")
        diagnostics = self.client.host.get_diagnostics()
        assert not diagnostics.journal, f"open intents: {diagnostics.journal}"
        assert not diagnostics.quarantined, f"quarantined: {diagnostics.quarantined}"
        assert all(t.ended for t in self.client.task.list()), "a task has not ended"
        eventually(lambda: len(outside.servers()) <= 2, why=f"jobs: {outside.servers()}")
        if self.bystander is not None:
            assert _steady(self.look(BYSTANDER)) == _steady(self.bystander), "the bystander"
        self._hold_quiet()

    def _astray(self) -> list[str]:
        return self.outside.astray()

    def _use(self, bench: Any) -> None:
        """It still stops, starts, and goes without a trace."""
        client, vm = bench.client, bench.vm
        if not client.vm.exists(vm):
            recorded(bench)
        if self.look(vm).power == "suspended":
            bench.run(client.vm.resume(vm))
            seen = self.look(vm)
            assert seen.power == "running", f"resumed, and {seen.power}"
            self._hold_consistent(seen, vm)
            assert remembers(seen, vm), "its memory is gone"
        bench.run(client.vm.shutdown(vm))
        seen = self.look(vm)
        assert seen.power == "halted", f"shut down, and {seen.power}"
        self._hold_consistent(seen, vm)
        bench.run(client.vm.start(vm))
        bench.up()
        seen = self.look(vm)
        assert seen.power == "running", f"started, and {seen.power}"
        self._hold_consistent(seen, vm)
        bench.run(client.vm.shutdown(vm))
        client.vm.remove(vm)
        bench.quiet()
        left = self.outside.nothing_of(vm)
        assert not left, f"left of it: {left}"
        self._hold_instance()


@contextmanager
def opened(kind: type[Kind]) -> Iterator[Kind]:
    """A lab for several cases, and nothing of it at the end."""
    # Not in the tests' own directory: sockets have short names, and a container's root passes.
    directory = Path(tempfile.mkdtemp(prefix="crash-"))
    directory.chmod(0o755)
    try:
        lab = kind(directory / "lab", alone=False)
        try:
            yield lab
        finally:
            lab.close()
    finally:
        shutil.rmtree(directory)


def recorded(bed: Bed) -> None:
    """The standard VM, halted: a root over a shared image, thrown away; a disk in an image file
    with a layer that persists; a VIF that may send from one address."""
    client, images = bed.client, bed.lab.images
    client.vm.add(Vm(id=bed.vm, guest=Container(), memory_static_max=2**27))
    root = Local(path=str(images.directory), format="directory", overlay=True)
    client.vbd.add(Vbd(id=bed.device("root"), position=0, backend=root, persistent=False))
    image = Local(path=str(images.squashfs), format="squashfs", overlay=True)
    home = Mount(path="/mnt/data")
    client.vbd.add(Vbd(id=bed.device("data"), position=1, backend=image, mount=home))
    client.vif.add(nic(bed, "net", 0))


def recorded_with_spares(bed: Bed) -> None:
    """The same, with a VBD and a VIF more that its start plugs too."""
    recorded(bed)
    add_spares(bed)


def add_spares(bed: Bed) -> None:
    home = Mount(path="/mnt/spare")
    spare = Vbd(id=bed.device("spare"), position=2, backend=bed.local("spare"), mount=home)
    bed.client.vbd.add(spare)
    bed.client.vif.add(nic(bed, "spare", 1))


def nic(bed: Bed, name: str, position: int) -> Vif:
    return Vif(
        id=bed.device(name),
        position=position,
        mac=derived_mac(bed.vm, position),
        backend=Bridge(name=bed.lab.outside.bridge),
        locking_mode=Locked(ipv4=["10.9.0.2"]),
    )


def running(bed: Bed) -> None:
    recorded(bed)
    bed.run(bed.client.vm.start(bed.vm))
    bed.up()


def remembering(bed: Bed) -> None:
    """Running, with something in its memory that no other life has."""
    running(bed)
    init = bed.look().init
    assert init is not None
    # As its own root: the host's has no id there.
    within = ["nsenter", "-t", str(init.pid), "-U", "-m", "-S", "0", "-G", "0"]
    write = ["/bin/sh", "-c", f"echo {bed.vm} >/{KEPT}"]
    subprocess.run([*within, *write], check=True, timeout=BEAT)


def remembers(seen: Seen, vm: str) -> bool:
    """Whether what runs has not been started anew."""
    return seen.init is not None and text(seen.init.root / KEPT).strip() == vm


def _hold_image(seen: Seen, vm: str) -> None:
    """It is whole, and nobody has run on from it."""
    recorded = seen.extra["image"]
    assert not recorded.get("spent"), "its image is spent"
    image.check(Path(recorded["path"]), vm, lambda _: None)


def _steady(seen: Seen) -> tuple[Any, ...]:
    """What of a VM that nobody touches must not change."""
    domain = seen.domain or {}
    return (
        seen.power,
        domain.get("id"),
        domain.get("incarnation"),
        seen.init,
        seen.names,
        seen.shown,
        seen.layers,
        seen.tables,
        seen.ranges,
    )
