"""What an operation failed with, as its task and its journal say it. Pure."""

from msgspec.structs import replace

from idl.task import ErrorObject
from xenopsd.execution import Execution


def cause(execution: Execution) -> ErrorObject | None:
    """The error of an operation, with the micro-op at which it failed."""
    if execution.error is None:
        return None
    shown = execution.error.error_object()
    if execution.failed_at is None:
        return shown
    return replace(shown, data={**shown.data, "micro_op": execution.failed_at})
