import msgspec
import pytest
from msgspec import Raw

from idl.calls import CALLS, UpdatesInjectBarrier, VmShutdown, VmStart, parameters
from idl.errors import InvalidParams, InvalidRequest, ParseError
from xenopsd.rpc.params import Reader


def read(method: str, params: str):
    return Reader(CALLS[method]).read(Raw(params.encode()))


@pytest.mark.parametrize(
    ("method", "params", "call"),
    [
        pytest.param("VM.start", '{"id":"a"}', VmStart(id="a"), id="by name"),
        pytest.param("VM.start", '["a",true]', VmStart(id="a", paused=True), id="by position"),
        pytest.param(
            "VM.start",
            '["a",true,"tag","t1"]',
            VmStart(id="a", paused=True, debug_info="tag", task="t1"),
            id="by position, up to what the base adds",
        ),
        pytest.param(
            "VM.shutdown", '{"id":"a","timeout":5}', VmShutdown(id="a", timeout=5.0), id="int as s"
        ),
        pytest.param(
            "VM.start", '{"id":"a","id":"b"}', VmStart(id="b"), id="the last of duplicate keys"
        ),
        pytest.param(
            "UPDATES.inject_barrier", '["a",-7]', UpdatesInjectBarrier(vm="a", id=-7), id="own id"
        ),
    ],
)
def test_good_params_become_the_call(method, params, call):
    assert read(method, params) == call


@pytest.mark.parametrize(
    ("method", "params", "reason"),
    [
        ("VM.stat", "{}", "id: missing"),
        ("VM.stat", "[]", "id: missing"),
        ("VM.stat", '{"id":5}', "id: expected str, got int"),
        ("VM.stat", '{"id":null}', "id: expected str, got null"),
        ("VM.stat", '{"id":"a","y":1}', "y: unknown parameter"),
        ("VM.list", "[1]", "[0]: unknown parameter: VM.list takes 0"),
        ("VM.stat", '["a",1]', "[1]: unknown parameter: VM.stat takes 1 (id)"),
        (
            "VM.stat",
            '{"id":".a"}',
            "id: '.a' is not 1 to 64 of A-Z a-z 0-9 . _ -, not starting with . or -",
        ),
        ("VBD.stat", '{"id":"a"}', "id: 'a' is not VM/NAME"),
        (
            "VM.start",
            '{"id":"a","task":"a b"}',
            "task: 'a b' is not 1 to 64 of A-Z a-z 0-9 . _ -",
        ),
        (
            "VM.add",
            '{"vm":{"id":"a","memory_static_max":"x"}}',
            "vm.memory_static_max: expected int, got str",
        ),
        ("VM.add", '{"vm":{"id":"a","foo":1}}', "vm.foo: unknown field"),
        ("VM.add", '{"vm":{}}', "vm.id: missing"),
        ("VM.add", '{"vm":5}', "vm: expected object, got int"),
        ("VM.add", '{"vm":{"id":"a","vcpu_max":0}}', "vm.vcpu_max: expected int >= 1"),
        ("VM.add", '{"vm":{"id":"a","guest":{}}}', "vm.guest.type: missing"),
        (
            "VM.add",
            '{"vm":{"id":"a","guest":{"type":"x"}}}',
            "vm.guest.type: 'x' is not one of hvm, pv, pvh, container",
        ),
        (
            "VM.add",
            '{"vm":{"id":"a","guest":{"type":"hvm","firmware":"z"}}}',
            "vm.guest.firmware: 'z' is not one of bios, uefi",
        ),
        (
            "VM.add",
            '{"vm":{"id":"a","guest":{"type":"hvm","boot_order":["disk","x"]}}}',
            "vm.guest.boot_order[1]: 'x' is not one of cdrom, disk, network",
        ),
        (
            "VM.add",
            '{"vm":{"id":"a","on_crash":["x"]}}',
            "vm.on_crash[0]: 'x' is not one of shutdown, start, pause, coredump",
        ),
        (
            "VM.add",
            '{"vm":{"id":"a","scheduler":{"affinity":[[0],[-1]]}}}',
            "vm.scheduler.affinity[1][0]: expected int >= 0",
        ),
        (
            "VM.add",
            '{"vm":{"id":"a","xsdata":{"k":"v","n":5}}}',
            "vm.xsdata.n: expected str, got int",
        ),
        (
            "VM.add",
            '{"vm":{"id":"a","platform":{"k":null}}}',
            "vm.platform.k: expected bool | int | float | str, got null",
        ),
        ("VM.shutdown", '{"id":"a","timeout":-1}', "timeout: expected float >= 0.0"),
        (
            "VM.shutdown",
            '{"id":"a","timeout":"x"}',
            "timeout: expected float | null, got str",
        ),
        (
            "VIF.set_locking_mode",
            '{"id":"a/b","locking_mode":{"type":"open"}}',
            "locking_mode.type: 'open' is not one of unlocked, disabled, locked",
        ),
        (
            "VIF.set_ipv4_configuration",
            '{"id":"a/b","ipv4":{"type":"x"}}',
            "ipv4.type: 'x' is not one of dhcp, none, static",
        ),
        (
            "VIF.add",
            '{"vif":{"id":"a/b","mac":"zz","backend":{"type":"bridge","name":"b"}}}',
            "vif.mac: 'zz' is not a MAC like 02:00:00:00:00:01",
        ),
        (
            "VIF.set_locking_mode",
            '{"id":"a/b","locking_mode":{"type":"locked","ipv4":["10.0.0.1","10.0.0.256"]}}',
            (
                "locking_mode.ipv4[1]: '10.0.0.256' is not an IPv4 address like 10.0.0.2, "
                "or a network like 10.0.0.0/24"
            ),
        ),
        (
            "VIF.set_locking_mode",
            '{"id":"a/b","locking_mode":{"type":"locked","ipv6":["10.0.0.1"]}}',
            (
                "locking_mode.ipv6[0]: '10.0.0.1' is not an IPv6 address like fd00::2, "
                "or a network like fd00::/64"
            ),
        ),
        (
            "VIF.set_ipv6_configuration",
            '{"id":"a/b","ipv6":{"type":"static","addresses":["fe80::1/64"],"gateway":"x"}}',
            "ipv6.gateway: 'x' is not an address like 10.0.0.1 or fd00::1, without a prefix length",
        ),
        (
            "VM.set_memory_dynamic_range",
            '{"id":"a","minimum":-1,"maximum":5}',
            "minimum: expected int >= 0",
        ),
        ("HOST.set_worker_pool_size", '{"size":true}', "size: expected int, got bool"),
    ],
)
def test_bad_params_are_told_by_their_path(method, params, reason):
    with pytest.raises(InvalidParams) as caught:
        read(method, params)
    assert caught.value.reason == reason


def complaints(method: str):
    call = CALLS[method]
    for name in parameters(call):
        for value in (None, True, 5, -1, 1.5, "", "a b", "-/", [], {}, [{}], {"id": "\n"}):
            try:
                Reader(call).convert({name: value})
            except InvalidParams as exc:
                yield exc.reason


@pytest.mark.parametrize("method", [name for name in CALLS if parameters(CALLS[name])])
def test_no_call_shows_a_pattern_or_a_backtick(method):
    reasons = list(complaints(method))
    assert reasons
    for reason in reasons:
        assert ": " in reason
        assert not set("`^\\$") & set(reason.replace("\\n", "")), reason


def test_a_long_value_is_cut():
    with pytest.raises(InvalidParams) as caught:
        read("VM.stat", msgspec.json.encode({"id": "/" * 5000}).decode())
    assert len(caught.value.reason) < 200


@pytest.mark.parametrize("params", ['"x"', "5", "null", "true"])
def test_params_that_are_no_structure_are_no_request(params):
    with pytest.raises(InvalidRequest):
        read("VM.stat", params)


@pytest.mark.parametrize(
    "params",
    [b'{"id":"\xff"}', b'{"id":1e999}', b'["\xff"]', b'{"other":"\xff"}', b'{"id":"\\ud800"}'],
)
def test_text_that_no_decoder_takes_is_a_parse_error(params):
    with pytest.raises(ParseError):
        Reader(CALLS["VM.stat"]).read(Raw(params))
