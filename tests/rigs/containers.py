"""A daemon with real containers, all of the small image, and a look at them from outside."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rigs.container import Images, Init, init_among
from rigs.daemon import DaemonProcess, eventually

from backends.lxc.cgroup import Cgroups, Group
from backends.lxc.places import Names
from idl.vbd import Local, Vbd
from idl.vm import Container, Vm

#: Bytes of memory that a container has.
MEMORY = 64 << 20


class ContainerHost:
    """A daemon, and what runs there."""

    def __init__(self, daemon: DaemonProcess, images: Images) -> None:
        self.daemon = daemon
        self.images = images
        self.client = daemon.client()
        self.names = Names(daemon.run_dir / "lxc", "default")

    def add(self, id: str, root: Local | None = None, **fields: object) -> None:
        """Record a VM; `fields` are of its configuration."""
        vm = Vm(id=id, **{"memory_static_max": MEMORY, "guest": Container(), **fields})
        self.client.vm.add(vm)
        image = Local(path=str(self.images.directory), format="directory", overlay=True)
        self.client.vbd.add(Vbd(id=f"{id}/root", position=0, backend=root or image))

    def run(self, task: str) -> None:
        """Wait for a task. Raises its error."""
        self.client.run(task, 60.0)

    def start(self, id: str, script: str | None = None) -> None:
        """Add and start one, which does what a shell script says."""
        init = None if script is None else ["/bin/sh", "-c", script]
        self.add(id, guest=Container(init=init))
        self.run(self.client.vm.start(id))

    def state(self, id: str):
        """As VM.stat has it."""
        return self.client.vm.stat(id).state

    def group(self, id: str) -> Group:
        """Its control group, in this incarnation."""
        incarnation = self.state(id).incarnation
        assert incarnation is not None
        return Cgroups.found().group(f"{self.names.group(id, incarnation)}/c")

    def init(self, id: str) -> Init:
        """Its first process, once that has booted."""
        found: list[Init] = []

        def beats() -> bool:
            init = init_among(self.group(id).pids())
            if init is not None and init.beats():
                found.append(init)
            return bool(found)

        eventually(beats, deadline=30.0, why=f"{id} beats")
        return found[0]

    def close(self) -> None:
        """End and remove every VM, then the daemon."""
        for vm in self.client.vm.list():
            self.run(self.client.vm.shutdown(vm.id))
            self.client.vm.remove(vm.id)
        self.client.close()
        # In an orderly way: its own control group goes then.
        self.daemon.stop()
        self.daemon.remove()


@contextmanager
def container_host(config: str = "") -> Iterator[ContainerHost]:
    """A daemon in a directory of its own, with these lines in its configuration."""
    with tempfile.TemporaryDirectory(prefix="xenopsd-") as name:
        directory = Path(name).resolve()
        # Containers have users of their own, who come by here.
        directory.chmod(0o755)
        images = Images(directory / "images")
        file = directory / "config.toml"
        file.write_text(f'paths.disks = ["{directory}/images"]\n{config}')
        daemon = DaemonProcess(directory / "d", "--config", str(file), backend="lxc")
        daemon.start()
        daemon.recovered()
        found = ContainerHost(daemon, images)
        try:
            yield found
        finally:
            found.close()
