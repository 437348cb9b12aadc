"""What can go wrong, as a sentence for a person and a number for a script."""

from dataclasses import dataclass

EXIT_CODES = {
    0: "done",
    1: "failed",
    2: "wrong usage",
    3: "not found",
    4: "busy, timed out, or left running",
    5: "the daemon cannot be reached",
}
FAILED, USAGE, NOT_FOUND, BUSY, UNREACHABLE = 1, 2, 3, 4, 5


class Detached(Exception):
    """Whoever watched a task left; it goes on."""

    def __init__(self, task: str) -> None:
        super().__init__(f"Task {task} goes on.")
        self.task = task


class NoConsole(Exception):
    """A VM that runs has no console to attach to; `others` are those of other protocols."""

    def __init__(self, vm: str, others: list[str]) -> None:
        has = f"; it has {', '.join(others)}" if others else ""
        super().__init__(f"VM {vm} has no text console{has}.")
        self.vm = vm


class ConsoleUnreachable(Exception):
    """The console that a VM was said to have does not take a connection."""

    def __init__(self, vm: str, place: str, reason: str) -> None:
        super().__init__(f"The console of {vm} at {place} cannot be reached ({reason}).")
        self.vm = vm


@dataclass(frozen=True, slots=True)
class About:
    """What the command that failed was about, as far as its line told.

    `command` is such as `disk plug`, `method` the call that `xenops call` made.
    """

    command: str | None = None
    vm: str | None = None
    method: str | None = None

    @property
    def noun(self) -> str | None:
        """The word for devices of the kind that it was about."""
        namespace = (self.method or "").partition(".")[0]
        nouns = {"VBD": "disk", "VIF": "nic", "PCI": "pci"}
        found = nouns.get(namespace, (self.command or "").partition(" ")[0])
        return found if found in nouns.values() else None


@dataclass(frozen=True, slots=True)
class Failure:
    """One sentence, an exit code, and what to do next where the sentence does not say it."""

    sentence: str
    code: int
    advice: str | None = None


def explain(error: BaseException, about: About | None = None) -> Failure | None:
    """What to tell about an error; None for a fault of this program."""
    if isinstance(error, KeyboardInterrupt):
        # Nobody knows whether the daemon has taken up what it was asked.
        return Failure("Interrupted; what was asked for may go on.", BUSY, "xenops task list")
    from idl import errors  # not needed until something fails
    from idl.link import AnswerTimeout, ConnectionFailed
    from xenopsd.cli.advice import next_step
    from xenopsd.cli.output import plain

    codes: dict[type[Exception], int] = {
        Detached: BUSY,
        NoConsole: FAILED,
        ConsoleUnreachable: FAILED,
        AnswerTimeout: BUSY,
        ConnectionFailed: UNREACHABLE,
        errors.DoesNotExist: NOT_FOUND,
        errors.TooManyRequests: BUSY,
        errors.DeadlineExceeded: BUSY,
        errors.TaskIsRunning: BUSY,
        errors.FailedToShutdown: BUSY,
        errors.FailedToAcknowledge: BUSY,
        errors.FailedToSuspend: BUSY,
        errors.InvalidParams: USAGE,
        errors.MethodNotFound: USAGE,
        errors.XenopsError: FAILED,
    }
    code = next((code for kind, code in codes.items() if isinstance(error, kind)), None)
    if code is None:
        return _local(error)
    return Failure(plain(" ".join(str(error).split())), code, next_step(error, about))


def _local(error: BaseException) -> Failure | None:
    """What went wrong on this side: with a file, or with what was typed."""
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        place = error.filename2 or error.filename
        where = "" if place is None else f": {place}"
        return Failure(f"{error.strerror or error}{where}", FAILED)
    if isinstance(error, UnicodeEncodeError):
        return Failure(f"{error.object!a} is no text that the daemon could be told.", USAGE)
    return None
