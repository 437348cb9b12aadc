import json

import pytest

from xenopsd.rpc.dispatch import Dispatcher
from xenopsd.rpc.exchange import Exchange
from xenopsd.rpc.limits import Limits, Usage

LIMITS = Limits(batch_members=3, batch_reply=400)


class Desk:
    """An exchange with what it answered."""

    def __init__(self, service, loop, context):
        self.service, self.loop, self.context = service, loop, context
        self.usage: Usage = context.usage
        self.told: list[bytes | None] = []
        self.fatal = False
        self.woken = 0
        self.exchange = Exchange(Dispatcher(service, LIMITS), self.usage, LIMITS, self.wake)
        self.futures = []
        service.answers |= {"UPDATES.get": self.future, "VM.add": self.future}

    def future(self, call):
        self.futures.append(self.loop.create_future())
        return self.futures[-1]

    def wake(self):
        self.woken += 1

    def answered(self, reply, fatal):
        self.told.append(None if reply is None else json.loads(reply))
        self.fatal = self.fatal or fatal

    def accept(self, message):
        self.exchange.accept(json.dumps(message).encode(), self.context, self.answered)
        while self.exchange.step():
            pass

    def settle(self):
        """Let the loop tell of the futures that are done, and drain."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()
        while self.exchange.drain():
            pass


@pytest.fixture
def desk(service, loop, context):
    return Desk(service, loop, context)


def call(method="VM.list", id=1, **params):
    message = {"jsonrpc": "2.0", "method": method, "params": params}
    return message if id is None else message | {"id": id}


def errors(batch):
    return [reply["error"]["data"]["error"] if "error" in reply else None for reply in batch]


def test_answers_overtake_waits(desk):
    desk.accept(call("UPDATES.get", 1))
    desk.accept(call("VM.list", 2))
    desk.futures[0].set_result("late")
    desk.settle()
    assert [reply["id"] for reply in desk.told] == [2, 1]
    assert desk.exchange.idle
    assert desk.usage.waits == 0


def test_a_wait_is_counted_until_it_is_encoded(desk):
    desk.accept(call("UPDATES.get"))
    desk.futures[0].set_result("late")
    desk.loop.call_soon(desk.loop.stop)
    desk.loop.run_forever()
    assert (desk.usage.waits, desk.woken, desk.told) == (1, 1, [])
    assert desk.exchange.drain()
    assert (desk.usage.waits, len(desk.told)) == (0, 1)


def test_a_notification_is_told_as_nothing(desk):
    desk.accept(call(id=None))
    assert desk.told == [None]


def test_a_batch_is_answered_as_one_when_all_are_ready(desk):
    desk.accept([call("UPDATES.get", 1), call(id=None), call("VM.list", 2)])
    assert desk.told == []
    assert desk.exchange.held > 0
    desk.futures[0].set_result("late")
    desk.settle()
    assert [reply["id"] for reply in desk.told[0]] == [1, 2]
    assert desk.exchange.held == 0
    assert desk.exchange.idle


def test_a_batch_of_notifications_has_no_answer(desk):
    desk.accept([call(id=None), call(id=None)])
    assert desk.told == [None]


def test_one_bad_member_gets_its_own_error(desk):
    desk.accept([call(id=1), 5, call("VM.nothing", 2)])
    assert errors(desk.told[0]) == [None, "InvalidRequest", "MethodNotFound"]


def test_members_past_the_limit_are_turned_away_by_id(desk):
    desk.accept([call(id=n) for n in range(4)] + [call(id=None)])
    assert errors(desk.told[0]) == [None, None, None, "TooManyRequests"]
    assert desk.told[0][3]["id"] == 3
    assert desk.told[0][3]["error"]["data"] == {
        "error": "TooManyRequests",
        "limit": 3,
        "queued": 5,
    }
    assert len(desk.service.seen) == 3


def test_a_member_whose_reply_would_be_too_much_is_told_so(desk):
    desk.service.answers["VM.list"] = "x" * 150
    desk.accept([call(id=n) for n in range(3)])
    assert errors(desk.told[0]) == [None, None, "TooManyRequests"]


@pytest.mark.parametrize("message", [[], [[]], [None]])
def test_a_batch_without_calls_is_told(desk, message):
    desk.accept(message)
    told = desk.told[0] if message else desk.told
    assert errors(told) == ["InvalidRequest"]


def test_a_batch_nested_too_deeply_is_fatal(desk):
    desk.exchange.accept(b"[" * 10_000, desk.context, desk.answered)
    assert errors(desk.told) == ["ParseError"]
    assert desk.fatal


def test_of_a_peer_that_has_gone_reads_are_withdrawn_and_the_rest_goes_on(desk):
    desk.accept(call("UPDATES.get"))
    desk.accept(call("VM.add", vm={"id": "a"}))
    desk.accept([call("UPDATES.get"), call("VM.list")])
    desk.exchange.forget()
    assert [future.cancelled() for future in desk.futures] == [True, False, True]
    desk.futures[1].set_exception(ValueError("nobody hears this"))
    desk.settle()
    assert desk.told == []
    assert desk.usage.waits == 0
    assert desk.exchange.idle
