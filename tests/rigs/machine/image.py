"""The rig's disk images: built once for each recipe, kept outside the repository.

Two of them, because they change at different times: `system` (Debian 12 with its own kernel 6.1, an
initramfs, an ext4 root) and `python` (what the project and its tests import, on an ext4 of its own).
The name of each has the hash of its recipe in it. The project itself is in neither.

Needs root (a root file system is made), mmdebstrap, e2fsprogs, and package lists of Debian 12.
"""

import configparser
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[2]
RELEASE = "bookworm"
KERNEL = "linux-image-amd64"
PACKAGES = (
    *("busybox-static", "ca-certificates", "criu", "e2fsprogs", "iproute2", "iptables"),
    *("iputils-ping", "kmod", "lxc", "nftables", "procps", "python3", "python3-lxc"),
    *("squashfs-tools", "xz-utils", "zstd"),
)
# What the initramfs loads before there is a root; their dependencies are found out.
EARLY_MODULES = ("crc32c_generic", "virtio_pci", "virtio_blk", "ext4")
# No device of theirs is in the rig, and they are most of the kernel's size.
NO_DEVICES = ("sound", "drivers/gpu", "drivers/media", "drivers/infiniband", "drivers/staging")
# Linters and the documentation's tools stay on the developer's machine.
ELSEWHERE = ("ruff", "mypy", "import-linter", "types-", "mkdocs", "pygal", "xenopsd")
# Compiled, since the machine is slow and cannot write there: a daemon starts in half the time.
PIP = ("--quiet", "--compile", "--use-pep517")
UNUSED_AFTER = 14 * 24 * 3600.0


class CannotBuild(Exception):
    """What is missing, in one sentence."""


def cache() -> Path:
    """Where the images are, by the XDG rules."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "xenopsd"


def requirements() -> list[str]:
    """What runs inside has to be importable there: the runtime's, each extra's and the tests'."""
    config = configparser.ConfigParser()
    config.read(CHECKOUT / "setup.cfg")
    listed = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    lines = {line.strip() for block in listed for line in block.splitlines() if line.strip()}
    return sorted(line for line in lines if not line.startswith(ELSEWHERE))


def system(say: Callable[[str], None]) -> Path:
    """The directory with `vmlinuz`, `initramfs.gz` and `root.ext4`; built where it is missing."""
    recipe = [Path(__file__).read_text(), (HERE / "initramfs-init").read_text()]
    return _cached("rig-system", recipe, _build_system, say)


def python(say: Callable[[str], None]) -> Path:
    """The directory with `python.ext4`; built where it is missing."""
    recipe = [*requirements(), *PIP]
    return _cached("rig-python", recipe, _build_python, say)


def _cached(
    name: str, recipe: Sequence[str], build: Callable[[Path], None], say: Callable[[str], None]
) -> Path:
    digest = hashlib.blake2b("\n".join(recipe).encode(), digest_size=6).hexdigest()
    place = cache() / f"{name}-{digest}"
    with _locked(f"{name}.lock"):
        if not place.is_dir():
            say(f"building {place}: once, in about a minute")
            _remove_unused(name)
            partial = place.with_name(place.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            try:
                build(partial)
                partial.rename(place)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        os.utime(place)
    return place


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """One builder at a time; the others wait and find it built."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_unused(name: str) -> None:
    for place in cache().glob(f"{name}-*"):
        if place.stat().st_mtime < time.time() - UNUSED_AFTER:
            shutil.rmtree(place)


def _build_system(place: Path) -> None:
    if os.geteuid():
        raise CannotBuild("building the rig's system needs root; started as root once, it is kept")
    root = place / "root"
    _run(_mmdebstrap(root), stdin=_sources())
    _add_kernel(root, place)
    _initramfs(root, place / "initramfs.gz")
    _ext4(root, place / "root.ext4", megabytes=3000)
    shutil.rmtree(root)


def _mmdebstrap(root: Path) -> list[str]:
    """The kernel is unpacked, not installed: its package would bring an initramfs generator."""
    unpack = (
        'export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"; mkdir "$1/kernel"; cd "$1/kernel"; '
        f"apt-get -qq download $(apt-cache depends {KERNEL} | sed -n 's/^  Depends: //p'); "
        "dpkg-deb -x linux-image-*.deb ."
    )
    return [
        *("mmdebstrap", "--quiet", "--variant=minbase", "--format=directory"),
        *(f"--dpkgopt=path-exclude=/usr/share/{of}/*" for of in ("doc", "man", "locale")),
        f"--include={','.join(PACKAGES)}",
        f"--customize-hook={unpack}",
        *(RELEASE, str(root), "-"),
    ]


def _sources() -> str:
    """The machine's own sources of Debian 12, one line each."""
    wanted = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    lines = _run(["apt-get", "indextargets", "--format", wanted, "Created-By: Packages"])
    own = {line for line in lines.splitlines() if re.search(rf" {RELEASE}(-\S+)? main$", line)}
    if not own:
        raise CannotBuild(f"apt knows no source of {RELEASE} main: add one, and apt-get update")
    return "\n".join(sorted(own))


def _add_kernel(root: Path, place: Path) -> None:
    unpacked = root / "kernel"
    (modules,) = (unpacked / "lib/modules").iterdir()
    shutil.copy(unpacked / "boot" / f"vmlinuz-{modules.name}", place / "vmlinuz")
    for part in NO_DEVICES:
        shutil.rmtree(modules / "kernel" / part)
    (root / "lib/modules").mkdir(exist_ok=True)
    modules.rename(root / "lib/modules" / modules.name)
    shutil.rmtree(unpacked)
    _run(["chroot", str(root), "depmod", modules.name])


def _initramfs(root: Path, image: Path) -> None:
    """A static busybox, the modules in the order of their loading, and `initramfs-init`."""
    tree = root / "initramfs"
    for name in ("bin", "modules", "dev", "proc", "sys", "root"):
        (tree / name).mkdir(parents=True)
    shutil.copy(root / "bin/busybox", tree / "bin/busybox")
    shutil.copy(HERE / "initramfs-init", tree / "init")
    (tree / "init").chmod(0o755)
    for number, module in enumerate(_in_order(root)):
        shutil.copy(
            root / module.lstrip("/"), tree / "modules" / f"{number:02}-{Path(module).name}"
        )
    pack = "cd /initramfs && find . | busybox cpio -o -H newc | gzip -1 > /initramfs.gz"
    _run(["chroot", str(root), "sh", "-c", pack])
    shutil.rmtree(tree)
    (root / "initramfs.gz").rename(image)


def _in_order(root: Path) -> list[str]:
    (kernel,) = (root / "lib/modules").iterdir()
    command = ["chroot", str(root), "modprobe", "-S", kernel.name, "--show-depends"]
    lines = [line for of in EARLY_MODULES for line in _run([*command, of]).splitlines()]
    paths = (line.split()[1] for line in lines if line.startswith("insmod "))
    return list(dict.fromkeys(paths))


def _build_python(place: Path) -> None:
    """Debian 12 has Python 3.11; compiled wheels are for the version that fetches them."""
    if sys.version_info[:2] != (3, 11):
        raise CannotBuild("the rig has Python 3.11: make .venv with it (PYTHON=python3.11)")
    tree = place / "python"
    _run([sys.executable, "-m", "pip", "install", *PIP, "--target", str(tree), *requirements()])
    _ext4(tree, place / "python.ext4", megabytes=400)
    shutil.rmtree(tree)


def _ext4(tree: Path, image: Path, *, megabytes: int) -> None:
    """Nothing is mounted for it; what is empty takes no room on the disk."""
    _run(["mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(image), f"{megabytes}M"])


def _run(command: Sequence[str], stdin: str = "") -> str:
    """Its output; `CannotBuild` with what it said where it fails."""
    if shutil.which(command[0]) is None:
        raise CannotBuild(f"{command[0]} is missing: see CONTRIBUTING.md, «The machine»")
    ended = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=900, check=False
    )
    if ended.returncode:
        said = (ended.stderr or ended.stdout)[-2000:]
        raise CannotBuild(f"{command[0]} failed with {ended.returncode}:\n{said}")
    return ended.stdout
