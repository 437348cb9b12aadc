"""Updates for one connection: asked for one batch at a time, when there is room for it.

What changes in between is merged by the daemon, so a subscriber that reads slowly costs one
batch and ends with the final state.
"""

import asyncio
from collections.abc import Callable

import structlog
from msgspec import Raw

from xenopsd.rpc.service import Subscription

_log = structlog.get_logger()


class Subscriber:
    """Passes each batch to `deliver`; asks for the next one only when `ask` is called.

    After `failed` nothing more comes: a subscriber that heard nothing would wait for ever.
    """

    def __init__(
        self,
        subscription: Subscription,
        deliver: Callable[[Raw], None],
        failed: Callable[[], None],
    ) -> None:
        self._subscription = subscription
        self._deliver = deliver
        self._failed = failed
        self._asked = False
        self._closed = False

    def ask(self) -> None:
        """There is room for a batch."""
        if not self._asked and not self._closed:
            self._asked = True
            self._subscription.next().add_done_callback(self._came)

    def close(self) -> None:
        self._closed = True
        self._subscription.close()

    def _came(self, future: "asyncio.Future[Raw]") -> None:
        if future.cancelled():
            return
        if (exc := future.exception()) is not None:
            _log.error("updates_failed", exc_info=exc)
            self._failed()
            return
        self._asked = False
        if not self._closed:
            self._deliver(future.result())
