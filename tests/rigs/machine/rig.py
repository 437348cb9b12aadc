"""Debian 12 with its own kernel 6.1, the project and its tests in it, under QEMU.

    python tests/rigs/machine/rig.py build
    python tests/rigs/machine/rig.py [--deadline S] run COMMAND...
    python tests/rigs/machine/rig.py test [PYTEST ARGUMENT...]
    python tests/rigs/machine/rig.py shell

The machine's disks are thrown away with it, it has no network, and it ends with its command. What
the command writes to /rig/results comes back into build/rig/, beside `status`, `dmesg` and
`serial.log`. It fails where the command fails, where the rig is not up in time, where the command
does not end in time, and `test` also where no test has passed.
"""

import argparse
import io
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from rigs.machine import image

QEMU = "qemu-system-x86_64"
UP = b"rig: up"
BOOT_DEADLINE = 180.0
# The guest ends its command by itself a little earlier, so that there are results to look at.
GRACE = 30.0
RESULTS_SIZE = 256 << 20
# What another kernel, and control groups of version 2 alone, may make fail. Two at once, one for
# each CPU of the machine: a file's tests stay together.
TESTS = (
    *("-n", "2", "--dist", "loadfile", "-k", "not simulator"),
    *("tests/rig", "tests/conformance", "tests/unit/backends/lxc/apart/test_locks.py"),
    *(f"tests/lxc/test_{of}.py" for of in ("cgroup", "neighbours", "isolation", "suspend")),
)


class RigFailed(Exception):
    """Why there is no result to rely on, in one sentence."""


@dataclass(frozen=True)
class Disks:
    """Files on the host, in the order in which the guest sees them: vda, vdb, vdc, vdd."""

    root: Path
    project: Path
    python: Path
    results: Path

    def arguments(self) -> list[str]:
        keep = {self.root: "snapshot=on", self.python: "readonly=on", self.project: "readonly=on"}
        drives = (self.root, self.project, self.python, self.results)
        each = (
            f"file={file},if=virtio,format=raw,{keep.get(file, 'cache=unsafe')}" for file in drives
        )
        return [part for drive in each for part in ("-drive", drive)]


def linux(system: Path) -> list[str]:
    """Debian's kernel itself. Another variant is another function with these arguments."""
    append = "console=ttyS0 quiet panic=-1 apparmor=0 cgroup_no_v1=all mitigations=off"
    return [
        *("-cpu", "max", "-smp", "2", "-m", "2048"),
        *("-kernel", str(system / "vmlinuz"), "-initrd", str(system / "initramfs.gz")),
        *("-append", append),
    ]


VARIANTS = {"linux": linux}


def qemu(variant: Sequence[str], disks: Disks, serial: str) -> list[str]:
    """It dies with this process, however that ends."""
    return [
        *("setpriv", "--pdeathsig", "KILL", "--", QEMU),
        *("-accel", "tcg,thread=multi", "-nodefaults", "-no-reboot", "-display", "none"),
        *("-serial", serial, *variant, *disks.arguments()),
    ]


def watch(
    command: Sequence[str],
    echo: Callable[[bytes], None],
    *,
    boot: float = BOOT_DEADLINE,
    deadline: float,
) -> None:
    """Run the machine to its end, its console to `echo`; `RigFailed` past `boot` or `deadline` (s)."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        assert process.stdout is not None
        _follow(process.stdout.fileno(), echo, boot, deadline)
    finally:
        process.kill()
        process.wait()


def _follow(console: int, echo: Callable[[bytes], None], boot: float, deadline: float) -> None:
    began = time.monotonic()
    seen, booted = b"", False
    with selectors.DefaultSelector() as ready:
        ready.register(console, selectors.EVENT_READ)
        while True:
            left = began + (deadline if booted else boot) - time.monotonic()
            if left <= 0 or not ready.select(left):
                what = "the command did not end" if booted else "the rig was not up"
                raise RigFailed(f"{what} within {deadline if booted else boot:g} s")
            text = os.read(console, 65536)
            if not text:
                break
            echo(text)
            seen = (seen + text)[-65536:]
            booted = booted or UP in seen
    if not booted:
        raise RigFailed("the machine ended before the rig was up")


def pack(checkout: Path, command: str, *, interactive: bool = False) -> bytes:
    """A tar with the checkout (what git would commit, and the metadata of the install), and the
    command: what the guest finds below /rig."""
    listing = ["git", "-C", str(checkout), "ls-files", "-z", "-co", "--exclude-standard"]
    names = subprocess.run(listing, capture_output=True, check=True).stdout.decode().split("\0")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in (*filter(None, names), "xenopsd.egg-info"):
            # A file may be deleted and not yet committed so.
            if (checkout / name).exists():
                tar.add(checkout / name, f"project/{name}")
        _add(tar, "command", command)
        if interactive:
            _add(tar, "interactive", "")
    return out.getvalue()


def _add(tar: tarfile.TarFile, name: str, text: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(text.encode())
    tar.addfile(entry, io.BytesIO(text.encode()))


def unpack(disk: Path, results: Path) -> int:
    """The command's exit status, once its results are in `results`."""
    try:
        with tarfile.open(disk, "r:") as tar:
            # Python 3.11.2, Debian 12's, has no filters.
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(results)
        return int((results / "status").read_text())
    except (tarfile.TarError, OSError, ValueError) as error:
        raise RigFailed(f"the rig brought no results back: {error}") from error


def passed(junit: Path) -> int:
    """How many tests have passed, by pytest's report."""
    try:
        suites = list(ET.parse(junit).getroot().iter("testsuite"))
    except (OSError, ET.ParseError) as error:
        raise RigFailed(f"the tests left no report: {error}") from error
    others = ("failures", "errors", "skipped")
    return sum(
        int(suite.get("tests", 0)) - sum(int(suite.get(other, 0)) for other in others)
        for suite in suites
    )


@contextmanager
def ran(
    command: str, results: Path, *, deadline: float, variant: str
) -> Iterator[tuple[int, Path]]:
    """Boot, run, bring back: the exit status, and what came back. That replaces `results` at the
    end, also where the rig failed; two runs at once do not mix theirs.

    Raises: `RigFailed`, `image.CannotBuild`."""
    within = f"exec timeout --kill-after=5 {deadline:g} sh -c {shlex.quote(command)}\n"
    with tempfile.TemporaryDirectory(prefix="xenopsd-rig-") as scratch:
        machine, disks = _assembled(Path(scratch), variant, pack(image.CHECKOUT, within))
        back = Path(scratch) / "back"
        back.mkdir()
        try:
            with (back / "serial.log").open("wb") as log:
                watch(
                    qemu(machine, disks, "stdio"),
                    lambda text: _tee(text, log.fileno()),
                    deadline=BOOT_DEADLINE + deadline + GRACE,
                )
            yield unpack(disks.results, back), back
        finally:
            shutil.rmtree(results, ignore_errors=True)
            shutil.copytree(back, results, dirs_exist_ok=True)


def run(words: Sequence[str], results: Path, *, deadline: float, variant: str) -> int:
    """A command in the rig: its exit status."""
    with ran(shlex.join(words), results, deadline=deadline, variant=variant) as (status, _):
        return status


def _assembled(scratch: Path, variant: str, project: bytes) -> tuple[list[str], Disks]:
    system, python = image.system(say), image.python(say)
    disks = Disks(
        system / "root.ext4", scratch / "project.tar", python / "python.ext4", scratch / "results"
    )
    disks.project.write_bytes(project)
    with disks.results.open("wb") as file:
        file.truncate(RESULTS_SIZE)
    return VARIANTS[variant](system), disks


def _tee(text: bytes, log: int) -> None:
    os.write(log, text)
    os.write(sys.stdout.fileno(), text.replace(b"\r\n", b"\n"))


def shell() -> int:
    """A shell on this terminal, in a rig of its own; Ctrl-A X ends it at once."""
    size = shutil.get_terminal_size()
    command = f"stty rows {size.lines} cols {size.columns}; TERM=vt220 exec bash -i\n"
    with tempfile.TemporaryDirectory(prefix="xenopsd-rig-") as scratch:
        project = pack(image.CHECKOUT, command, interactive=True)
        machine, disks = _assembled(Path(scratch), "linux", project)
        return subprocess.run(qemu(machine, disks, "mon:stdio"), check=False).returncode


def test(arguments: Sequence[str], results: Path, *, deadline: float, variant: str) -> int:
    """pytest in the rig; fails also where none has passed."""
    options = ("-q", "-p", "no:cacheprovider", "--junitxml=/rig/results/junit.xml")
    command = shlex.join(["python3", "-m", "pytest", *options, *(arguments or TESTS)])
    with ran(command, results, deadline=deadline, variant=variant) as (status, back):
        if status == 0 and passed(back / "junit.xml") == 0:
            raise RigFailed("no test has passed: all were skipped")
        return status


def say(text: str) -> None:
    print(f"rig: {text}", file=sys.stderr, flush=True)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="rig.py", description="Debian's kernel 6.1 under QEMU")
    parser.add_argument(
        "--deadline", type=float, default=1200.0, metavar="S", help="for the command"
    )
    parser.add_argument("--results", type=Path, default=image.CHECKOUT / "build/rig")
    parser.add_argument("--variant", choices=VARIANTS, default="linux")
    parser.add_argument("what", choices=("build", "run", "test", "shell"))
    parser.add_argument("words", nargs=argparse.REMAINDER)
    return parser.parse_args(arguments)


def ends_orderly() -> None:
    """A signal unwinds, so that the machine and the scratch directory go with this process."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, _: sys.exit(128 + got))


def main(arguments: Sequence[str]) -> int:
    ends_orderly()
    asked = parsed(arguments)
    begin: dict[str, Callable[[], int]] = {
        "build": lambda: 0 if image.system(say) and image.python(say) else 1,
        "shell": shell,
        "run": lambda: run(
            asked.words, asked.results, deadline=asked.deadline, variant=asked.variant
        ),
        "test": lambda: test(
            asked.words, asked.results, deadline=asked.deadline, variant=asked.variant
        ),
    }
    began = time.monotonic()
    try:
        status = begin[asked.what]()
    except (RigFailed, image.CannotBuild) as error:
        say(str(error))
        return 1
    say(f"{asked.what}: status {status} after {time.monotonic() - began:.0f} s")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
