import pytest

from idl.calls import DebugTrigger, VmExportMetadata, VmStart, VmStat
from idl.errors import PermissionDenied
from xenopsd.rpc.access import Rule, may_connect
from xenopsd.rpc.service import Caller


def caller(*gids: int, privileged: bool = False, readonly: bool = False) -> Caller:
    return Caller(uid=1000, gids=frozenset(gids), readonly=readonly, privileged=privileged)


@pytest.mark.parametrize(
    ("who", "group", "may"),
    [
        pytest.param(caller(privileged=True), None, True, id="root without a group"),
        pytest.param(caller(7), 7, True, id="a member"),
        pytest.param(caller(1, 2, 7), 7, True, id="a member by a supplementary group"),
        pytest.param(caller(6), 7, False, id="no member"),
        pytest.param(caller(0), None, False, id="the group root means nothing"),
    ],
)
def test_who_may_connect(who, group, may):
    assert may_connect(who, group) is may


@pytest.mark.parametrize(
    ("call", "who", "may"),
    [
        (VmStat, caller(readonly=True), True),
        (VmStart, caller(readonly=True), False),
        (VmStart, caller(readonly=True, privileged=True), False),
        (VmExportMetadata, caller(readonly=True), False),
        (VmExportMetadata, caller(), True),
        (DebugTrigger, caller(), False),
        (DebugTrigger, caller(privileged=True), True),
        (DebugTrigger, caller(privileged=True, readonly=True), False),
    ],
)
def test_who_may_call_what(call, who, may):
    if may:
        Rule(call).check(who)
        return
    with pytest.raises(PermissionDenied) as caught:
        Rule(call).check(who)
    assert caught.value.method == call.method
