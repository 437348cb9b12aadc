"""Where everything of a container is, and what it is called.

`RUN/lxc` is shared by the instances of a host and empty after its boot; `STATE/lxc` is one
instance's and lasts.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from idl.ids import DeviceId, VmId, name_of

#: What every control group of ours is beneath.
CGROUPS = "xenopsd"


@dataclass(frozen=True, slots=True)
class Place:
    """`RUN/lxc/INSTANCE/VM`: everything of one container that ends with it."""

    path: Path

    @property
    def record(self) -> Path:
        """What the domain is; there is one while this is there."""
        return self.path / "domain.json"

    @property
    def dead(self) -> Path:
        """What it was, for a domain that was killed and is not cleared yet."""
        return self.path / "dead.json"

    @property
    def incarnation(self) -> str | None:
        """Whose effects are here; None where that cannot be told."""
        try:
            return str((self.path / "incarnation").readlink())
        except FileNotFoundError:
            return None

    def claim(self, incarnation: str) -> None:
        """Make the directory, for this incarnation: before anything else is in it."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o711)
        if self.incarnation is None:
            (self.path / "incarnation").symlink_to(incarnation)

    @property
    def user_namespace(self) -> Path:
        """Pinned."""
        return self.path / "ns" / "user"

    @property
    def network_namespace(self) -> Path:
        """Pinned."""
        return self.path / "ns" / "net"

    @property
    def config(self) -> Path:
        """Liblxc's configuration."""
        return self.path / "config"

    @property
    def seccomp(self) -> Path:
        """The system calls that are refused."""
        return self.path / "seccomp"

    @property
    def status(self) -> Path:
        """How init ended; written by the keeper."""
        return self.path / "status"

    @property
    def init(self) -> Path:
        """Init's pid."""
        return self.path / "init"

    @property
    def started(self) -> Path:
        """Where word of the start goes."""
        return self.path / "started"

    @property
    def keeper(self) -> Path:
        """Locked by the keeper."""
        return self.path / "keeper"

    @property
    def dumper(self) -> Path:
        """Locked by who writes the container's memory to files."""
        return self.path / "dumper"

    @property
    def dumped(self) -> Path:
        """How that ended."""
        return self.path / "dumped"

    @property
    def console(self) -> Path:
        """The socket of the console."""
        return self.path / "console.sock"

    @property
    def console_server(self) -> Path:
        """Locked by who serves the console."""
        return self.path / "console"

    @property
    def said(self) -> Path:
        """What the console said last; written by its server when the container has ended."""
        return self.path / "said"

    @property
    def terminal(self) -> Path:
        """A link to the console's terminal."""
        return self.path / "tty"

    @property
    def xsdata(self) -> Path:
        """A directory that the guest sees at /dev/xsdata."""
        return self.path / "xsdata"

    @property
    def log(self) -> Path:
        """Liblxc's."""
        return self.path / "log"

    def disk(self, id: DeviceId) -> Path:
        """Where a VBD is mounted on the host."""
        return self.path / "disks" / name_of(id)


@dataclass(frozen=True, slots=True)
class Names:
    """What the kernel's objects of an instance are called; `run` is RUN/lxc.

    Control groups and interfaces are one for all daemons of a machine: those with another
    directory, a developer's beside the host's own, must not take ours for theirs.
    """

    run: Path
    instance: str

    @property
    def whole(self) -> str:
        """The instance, as nobody else on the machine calls theirs."""
        tag = hashlib.blake2b(str(self.run.resolve()).encode(), digest_size=4).hexdigest()
        return f"{self.instance}@{tag}"

    def mark(self, vm: VmId, incarnation: str = "") -> str:
        """What everything of a domain is marked with; without an incarnation, how the marks of
        all of a VM's domains begin. No part has a blank in it."""
        return f"xenopsd {self.whole} {vm} {incarnation}"

    def group(self, vm: VmId = "", incarnation: str = "") -> str:
        """The control group of a domain, of a VM, or of the instance, in every hierarchy;
        liblxc's are `c` and `m` in a domain's."""
        return "/".join(part for part in (CGROUPS, self.whole, vm, incarnation) if part)

    def interface(self, id: DeviceId, incarnation: str) -> str:
        """The name of a VIF's interface on the host: at most 15 characters, as Linux has it."""
        mark = f"{self.whole}\n{id}\n{incarnation}".encode()
        return f"xv{hashlib.blake2b(mark, digest_size=6).hexdigest()}"
