"""liblxc's configuration of a container. Pure.

liblxc splits lines at the first `=` and takes a pair of quotes around a value away: so every
value that a client chose stands in quotes, and none has a line break (`require`).
"""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from backends.lxc.acknowledgement import number
from backends.lxc.places import Place
from backends.lxc.plugin import IDS
from backends.lxc.record import ContainerVbd, Record
from idl.errors import InvalidParameter
from idl.vm import Container, Vm

#: What root may not do even where it is the host's: load modules, set the clock, touch ports
#: of the hardware, change what a security module says.
DROPPED = ("mac_admin", "mac_override", "sys_time", "sys_module", "sys_rawio")

#: System calls that reach what no namespace keeps apart, refused with EPERM.
REFUSED = (
    "acct",
    "bpf",
    "delete_module",
    "finit_module",
    "init_module",
    "ioperm",
    "iopl",
    "kexec_file_load",
    "kexec_load",
    "lookup_dcookie",
    "open_by_handle_at",
    "perf_event_open",
    "quotactl",
    "swapoff",
    "swapon",
    "syslog",
    "userfaultfd",
)

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?")

#: Keys of `platform` that name the signals which init takes for requests.
SIGNALS = {"poweroff": "halt_signal", "reboot": "reboot_signal"}


@dataclass(frozen=True, slots=True)
class Host:
    """What of the host a configuration depends on."""

    apparmor: bool


def require(vm: Vm) -> None:
    """Whether there is a configuration for this VM. Raises InvalidParameter."""
    assert isinstance(vm.guest, Container), "seen before"
    guest = vm.guest
    for name, value in guest.environment.items():
        if not _VARIABLE.fullmatch(name):
            raise _invalid("vm.guest.environment", f"{name!r} is no name of a variable")
        if "\n" in value or "\0" in value:
            raise _invalid("vm.guest.environment", f"the value of {name} has a line break")
    if guest.hostname is not None and not _HOSTNAME.fullmatch(guest.hostname):
        raise _invalid("vm.guest.hostname", f"{guest.hostname!r} is no host name")
    if guest.init is not None and (not guest.init or not guest.init[0].startswith("/")):
        raise _invalid("vm.guest.init", "give the path of a program, from /, and its arguments")
    if any("\0" in word for word in guest.init or ()):
        raise _invalid("vm.guest.init", "an argument has a zero byte")
    for key in SIGNALS.values():
        wished = vm.platform.get(key, "SIGPWR")
        if not isinstance(wished, str) or not _is_signal(wished):
            raise _invalid(f"vm.platform.{key}", f"{wished!r} is no signal such as SIGRTMIN+3")


def _is_signal(name: str) -> bool:
    try:
        return bool(number(name))
    except ValueError:
        return False


def _invalid(name: str, reason: str) -> InvalidParameter:
    return InvalidParameter(name=name, reason=reason)


def root_of(record: Record) -> ContainerVbd | None:
    """The VBD that is the root file system."""
    return next((vbd for vbd in record.vbds.values() if vbd.position == 0), None)


def render(record: Record, place: Place, limits: Iterable[tuple[str, str]], host: Host) -> str:
    """The whole configuration. `limits` are lines of `backends.lxc.limits`."""
    lines = [
        ("lxc.uts.name", record.hostname),
        *_root(record, place),
        *_namespaces(record, place),
        *_confinement(record, place, host),
        *limits,
        *_groups(record),
        *_console(place),
        *_keeping(place),
        *((("lxc.environment", f'"{k}={v}"')) for k, v in record.environment.items()),
        *_mounts(record, place),
    ]
    return "".join(f"{key} = {value}\n" for key, value in lines)


def seccomp() -> str:
    """The policy: everything is allowed but what is named."""
    return "2\ndenylist\nreject_force_umount\n[all]\n" + "".join(
        f"{name} errno 1\n" for name in REFUSED
    )


def _root(record: Record, place: Place) -> Iterable[tuple[str, str]]:
    for id, vbd in record.vbds.items():
        if vbd.position == 0:
            yield "lxc.rootfs.path", f"dir:{place.disk(id)}"


def _namespaces(record: Record, place: Place) -> Iterable[tuple[str, str]]:
    yield "lxc.namespace.share.net", str(place.network_namespace)
    if not record.privileged:
        yield "lxc.namespace.share.user", str(place.user_namespace)
        for kind in "ug":
            yield "lxc.idmap", f"{kind} 0 {record.first_id} {IDS}"


def _confinement(record: Record, place: Place, host: Host) -> Iterable[tuple[str, str]]:
    yield "lxc.cap.drop", " ".join(DROPPED)
    yield "lxc.seccomp.profile", str(place.seccomp)
    if record.nesting:
        yield "lxc.seccomp.allow_nesting", "1"
    if host.apparmor:
        yield "lxc.apparmor.profile", "generated"
        yield "lxc.apparmor.allow_nesting", "1" if record.nesting else "0"
    else:
        # Said: with AppArmor in the kernel and nothing that loads profiles, silence fails a start.
        yield "lxc.apparmor.profile", "unconfined"
    sys = "rw" if record.nesting and not record.privileged else "mixed"
    yield "lxc.mount.auto", f"proc:mixed sys:{sys} cgroup:mixed"


def _groups(record: Record) -> Iterable[tuple[str, str]]:
    # Limits are set on `c`; the container sees itself in `i`, and cannot lift them.
    yield "lxc.cgroup.dir.container", f"{record.group}/c"
    yield "lxc.cgroup.dir.container.inner", "i"
    yield "lxc.cgroup.dir.monitor", f"{record.group}/m"
    yield "lxc.cgroup.dir.monitor.pivot", f"{record.group}/p"


def _console(place: Place) -> Iterable[tuple[str, str]]:
    # The terminal is made by the keeper: liblxc's own would die with it.
    yield "lxc.console.path", "none"
    yield "lxc.tty.max", "0"
    yield "lxc.pty.max", "1024"
    yield "lxc.mount.entry", f"{_field(place.terminal)} dev/console none bind,create=file 0 0"


def _keeping(place: Place) -> Iterable[tuple[str, str]]:
    yield "lxc.hook.version", "1"
    init, started = shlex.quote(str(place.init)), shlex.quote(str(place.started))
    # liblxc has a shell run it, behind an `exec`: of a redirection, so that the shell goes on.
    yield "lxc.hook.start-host", f">/dev/null; echo $LXC_PID >{init}; echo >{started}"
    # One that fails keeps liblxc from restarting a container that reboots.
    yield "lxc.hook.post-stop", "/bin/false"
    # A keeper that is killed takes nothing with it.
    yield "lxc.monitor.signal.pdeath", "0"
    yield "lxc.log.file", str(place.log)
    yield "lxc.log.level", "WARN"


def _mounts(record: Record, place: Place) -> Iterable[tuple[str, str]]:
    yield (
        "lxc.mount.entry",
        f"{_field(place.xsdata)} dev/xsdata none bind,ro,create=dir 0 0",
    )
    # Outer ones first: /srv before /srv/www.
    for id, vbd in sorted(record.vbds.items(), key=lambda item: item[1].target):
        if vbd.position != 0 and vbd.medium is not None:
            source, target = _field(place.disk(id)), _field(vbd.target.lstrip("/"))
            yield "lxc.mount.entry", f"{source} {target} none rbind,create=dir 0 0"


def _field(value: object) -> str:
    """As fstab(5) has it."""
    escapes = {" ": "\\040", "\t": "\\011", "\n": "\\012", "\\": "\\134"}
    return "".join(escapes.get(letter, letter) for letter in str(value))
