import pytest

from idl.errors import TooManyRequests
from xenopsd.rpc.limits import Limits, Usage


def test_connections_are_counted_up_to_the_limit():
    usage = Usage(Limits(connections=2))
    usage.connect()
    usage.connect()
    with pytest.raises(TooManyRequests) as caught:
        usage.connect()
    assert (caught.value.limit, caught.value.queued) == (2, 2)
    assert usage.connections == 2


def test_waits_are_full_at_the_limit():
    usage = Usage(Limits(waits=1))
    assert not usage.full
    usage.waits = 1
    assert usage.full
    assert usage.too_many_waits().limit == 1
