"""Which instance of a host has which VM: one small file a VM in `RUN/owners`.

Made with O_EXCL, so that of two instances one has it. A claim is void when the store that it
names no longer has the VM; `OwnedByAnother` otherwise. While a VM's record is being made its claim
is locked: nobody takes it for void meanwhile.

A VM that is handed to another instance has a claim that names both: the one that it is offered
to, and in `from` the one that it comes from. Of the two the first has it once its record is there,
and until then the other. So the writing of that record is the moment at which it changes hands.
Right after it, still under the lock, the first makes the claim its own. A giver that finds it to
be neither its own nor its offer knows by that that the offer was taken, wherever the VM is by now.
"""

import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from idl.decoding import decoder
from idl.errors import OwnedByAnother, StorageError
from idl.ids import VmId

#: Seconds that another instance may take over the record of a VM that it claims.
PATIENCE = 5.0
_BEAT = 0.02


class Holder(Struct, frozen=True, kw_only=True):
    """An instance and its state directory."""

    instance: str
    state_dir: str

    def has(self, vm: VmId) -> bool:
        """Whether its store has the VM, readable or not. A directory that a crash has left
        before anything was written into it is no VM."""
        try:
            return any(not entry.name.startswith(".") for entry in self._path(vm).iterdir())
        except FileNotFoundError:
            return False
        except OSError:
            return True  # in doubt it has

    def has_recorded(self, vm: VmId) -> bool:
        """Whether its store has the VM's record: the last thing to be written of it."""
        return (self._path(vm) / "config.json").exists()

    def _path(self, vm: VmId) -> Path:
        return Path(self.state_dir) / "vm" / vm


class Claim(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the file of a claim holds."""

    instance: str
    state_dir: str
    giver: Holder | None = msgspec.field(default=None, name="from")

    @property
    def holder(self) -> Holder:
        """The one that it names first."""
        return Holder(instance=self.instance, state_dir=self.state_dir)

    def owner(self, vm: VmId) -> Holder | None:
        """Who has the VM; None where the claim is void."""
        first = self.holder
        if self.giver is None:
            return first if first.has(vm) else None
        if first.has_recorded(vm):
            return first
        return self.giver if self.giver.has(vm) else None


class Claims:
    """The claims of one instance. `clock` is monotonic."""

    def __init__(
        self,
        run_dir: Path,
        instance: str,
        state_dir: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        patience: float = PATIENCE,
    ) -> None:
        self._owners = run_dir / "owners"
        self._clock = clock
        self._patience = patience
        self.me = Holder(instance=instance, state_dir=str(state_dir))
        self._mine = _claim(self.me)
        self._line = msgspec.json.encode(self._mine)

    @contextmanager
    def taking(self, vm: VmId, *, offered: bool = False) -> Iterator[None]:
        """Claim a VM, and keep others from it while the body writes its record.

        With `offered`, also one that another instance offers to this one. Where the body fails,
        the claim is given back. Raises OwnedByAnother, StorageError.
        """
        path = self._owners / vm
        try:
            fd = self._taken(path, offered=offered)
        except OSError as error:
            raise _failed(path, error) from error
        try:
            yield
            self._accept(fd, path)
        except BaseException:
            if self._is_given(vm):
                path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)

    def confirm(self, vm: VmId) -> None:
        """Claim a VM that is in the store. Raises OwnedByAnother, StorageError."""
        if not self._is_mine(self._owners / vm):
            with self.taking(vm):
                pass

    def give(self, vm: VmId) -> None:
        """Let a VM go that is this instance's."""
        self._drop(self._owners / vm, lambda: self._is_given(vm))

    def keep(self, vms: Iterable[VmId]) -> dict[VmId, str]:
        """Claim those that are in the store at start; those that cannot be, and why."""
        contested: dict[VmId, str] = {}
        held = set(vms)
        self._clear(held)
        for vm in held:
            try:
                self.confirm(vm)
            except OwnedByAnother as error:
                contested[vm] = f"the instance {error.instance} of this host claims it too"
            except StorageError as error:
                contested[vm] = f"it cannot be claimed: {error.reason}"
        return contested

    # Changing hands

    def offer(self, vm: VmId, to: Holder) -> None:
        """Let another instance take a VM of this one. Raises OwnedByAnother, StorageError."""
        path = self._owners / vm
        with self.taking(vm):
            try:
                self._replace(path, _claim(to, giver=self.me))
            except OSError as error:
                raise _failed(path, error) from error

    def settle(self, vm: VmId, to: Holder, *, told: bool = False) -> bool:
        """Whether an offer was taken; if not, it stands no more. Who was `told` so knows it, even
        where the VM was removed there since. Raises StorageError."""
        path = self._owners / vm
        try:
            fd = self._locked(path)
        except StorageError:
            # Stopped in the middle of taking it. If it goes on it finds that the VM is not its
            # own, and `confirm` keeps it from running it.
            fd = None
        except OSError as error:
            raise _failed(path, error) from error
        try:
            if not told and not self._is_taken(path, to):
                return self._take_back(path, to)
            if to.has_recorded(vm):
                self._pass_on(path, to)
            return True
        except OSError as error:
            raise _failed(path, error) from error
        finally:
            if fd is not None:
                os.close(fd)

    def gone(self, vm: VmId, to: Holder) -> bool:
        """Whether an offer to `to` was taken, and what was taken perhaps handed on since.
        Raises StorageError."""
        path = self._owners / vm
        try:
            return self._is_taken(path, to)
        except OSError as error:
            raise _failed(path, error) from error

    def _is_taken(self, path: Path, to: Holder) -> bool:
        if to.has_recorded(path.name):
            return True
        claim = _read(path)
        return claim is not None and self.me not in (claim.holder, claim.giver)

    def _pass_on(self, path: Path, to: Holder) -> None:
        """Have the claim of what was taken no more name this instance."""
        claim = _read(path)
        if claim is None or self.me in (claim.holder, claim.giver):
            self._write_if_possible(path, _claim(to))

    def _take_back(self, path: Path, to: Holder) -> bool:
        """Withdraw an offer; whether it was taken all the same."""
        self._replace(path, self._mine)
        # Looked at again, for it may have come between.
        taken = to.has_recorded(path.name)
        if taken:
            self._replace(path, _claim(to))
        return taken

    def _accept(self, fd: int, path: Path) -> None:
        """Make a claim that was offered this instance's own, once the record is there."""
        claim = _read(path)
        offered = claim is not None and claim.holder == self.me and claim.giver is not None
        if not offered or not self.me.has_recorded(path.name) or not _stands(fd, path):
            return
        self._write_if_possible(path, self._mine)

    # Files

    def _taken(self, path: Path, *, offered: bool) -> int:
        """The claim, this instance's and locked."""
        vm = path.name
        while True:
            fd = self._locked(path)
            if fd is None:
                fd = self._made(path)
                if fd is not None:
                    return fd
                continue
            try:
                claim = _read(path)
                owner = None if claim is None else claim.owner(vm)
                if owner == self.me or claim == self._mine:
                    return fd
                if offered and claim is not None and claim.holder == self.me:
                    return fd
                if owner is not None:
                    raise OwnedByAnother(id=vm, instance=owner.instance)
                path.unlink(missing_ok=True)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _locked(self, path: Path) -> int | None:
        """The file under its lock; None where there is none. Raises StorageError."""
        deadline = self._clock() + self._patience
        while True:
            try:
                fd = _opened(path)
            except FileNotFoundError:
                return None
            try:
                self._lock(fd, path, deadline)
                if _stands(fd, path):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            # Removed or replaced while it was waited for: what counts is what is there now.
            os.close(fd)

    def _lock(self, fd: int, path: Path, deadline: float) -> None:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._clock() >= deadline:
                    reason = f"{path}: another instance has it locked; try again"
                    raise StorageError(plugin="claims", reason=reason) from None
                threading.Event().wait(_BEAT)
            else:
                return

    def _made(self, path: Path) -> int | None:
        """A new claim, locked; None where somebody else's came first."""
        self._owners.mkdir(mode=0o755, parents=True, exist_ok=True)
        fresh, fd = self._written(path, self._line)
        try:
            os.link(fresh, path)
        except FileExistsError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        finally:
            fresh.unlink(missing_ok=True)
        return fd

    def _replace(self, path: Path, claim: Claim) -> None:
        fresh, fd = self._written(path, msgspec.json.encode(claim))
        os.close(fd)
        fresh.replace(path)

    def _write_if_possible(self, path: Path, claim: Claim) -> None:
        try:
            self._replace(path, claim)
        except OSError:
            # The record counts: whose it is the offer tells as well.
            return

    def _written(self, path: Path, line: bytes) -> tuple[Path, int]:
        # Under another name first: a claim is never seen half written.
        fresh = path.with_name(f".{path.name}~{self.me.instance}")
        # One that a crash has left may be the claim itself, by its other name.
        fresh.unlink(missing_ok=True)
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, line)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(fd)
            fresh.unlink(missing_ok=True)
            raise
        return fresh, fd

    def _is_mine(self, path: Path) -> bool:
        try:
            return _content(path) == self._line
        except OSError:
            return False

    def _is_given(self, vm: VmId) -> bool:
        return self._is_mine(self._owners / vm) and not self.me.has_recorded(vm)

    def _clear(self, held: set[VmId]) -> None:
        """Remove what a crash has left: claims without a record, and claims half made."""
        try:
            found = list(self._owners.iterdir())
        except OSError:
            # They are void all the same.
            return
        for path in found:
            if not path.name.startswith("."):
                if path.name not in held:
                    self._drop(path, lambda: self._is_void(path))  # noqa: B023  # called at once
            elif path.name.endswith(f"~{self.me.instance}"):
                self._drop(path, lambda: True)

    def _is_void(self, path: Path) -> bool:
        claim = _read(path)
        if claim is None or self.me not in (claim.holder, claim.giver):
            return False
        return claim.owner(path.name) is None

    def _drop(self, path: Path, void: Callable[[], bool]) -> None:
        """Remove a claim that is void, unless somebody is about to take it."""
        try:
            fd = _opened(path)
        except OSError:
            # Void all the same: the store it names has the VM no more.
            return
        try:
            # Under its lock: what was void may have been replaced by another one's claim.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _stands(fd, path) and void():
                path.unlink(missing_ok=True)
        except OSError:
            return
        finally:
            os.close(fd)


def _claim(holder: Holder, giver: Holder | None = None) -> Claim:
    return Claim(instance=holder.instance, state_dir=holder.state_dir, giver=giver)


def _read(path: Path) -> Claim | None:
    """The claim; None where there is none that can be understood."""
    try:
        claim: Claim = decoder(Claim).decode(_content(path))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return claim


def _content(path: Path) -> bytes:
    with open(_opened(path), "rb") as file:
        return file.read()


def _opened(path: Path) -> int:
    """A claim is a file. What is anything else may lead elsewhere, or block who opens it."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is no file: remove it")
    return fd


def _stands(fd: int, path: Path) -> bool:
    """Whether it is still the claim: neither removed nor replaced."""
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def _failed(path: Path, error: OSError) -> StorageError:
    return StorageError(plugin="claims", reason=f"{path}: {error.strerror}")
