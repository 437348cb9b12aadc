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
        super().__init__(f"Task {task} goes on; xenops task wait {task} watches it again.")


@dataclass(frozen=True, slots=True)
class Failure:
    """One sentence, an exit code, and what to do next where the sentence does not say it."""

    sentence: str
    code: int
    advice: str | None = None


def explain(error: Exception) -> Failure | None:
    """What to tell about an error; None for a fault of this program."""
    from idl import errors  # not needed until something fails
    from idl.link import AnswerTimeout, ConnectionFailed
    from xenopsd.cli.advice import next_step

    codes: dict[type[Exception], int] = {
        Detached: BUSY,
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
        return None
    return Failure(" ".join(str(error).split()), code, next_step(error))
