"""A VM as it is written by hand."""

import json

import msgspec
import pytest

from idl.metadata import Metadata
from idl.pci import Pci
from idl.vbd import Local, Mount, Vbd
from idl.vif import Bridge, IpConfiguration, Locked, Vif
from idl.vm import Container, Hvm, Vm
from xenopsd.cli.vmfile import BadVm, disk, nic, of_file, of_options, size

TEXT = """
id = "web"
memory_static_max = 1024
guest = {type = "container", hostname = "web"}
[[vbds]]
id = "root"
backend = {type = "local", path = "/base.tar", format = "tar"}
[[vifs]]
id = "web/eth0"
backend = {type = "bridge", name = "br0"}
[[pcis]]
id = "gpu"
address = "0000:01:00.0"
"""

WEB = Metadata(
    vm=Vm(id="web", memory_static_max=1024, guest=Container(hostname="web")),
    vbds=[Vbd(id="web/root", backend=Local(path="/base.tar", format="tar"))],
    vifs=[Vif(id="web/eth0", backend=Bridge(name="br0"))],
    pcis=[Pci(id="web/gpu", address="0000:01:00.0")],
)


def test_a_toml_file_holds_a_vm_with_its_devices():
    assert of_file("web.toml", TEXT) == WEB


def test_a_json_file_may_be_what_was_exported():
    assert of_file("web.json", msgspec.json.encode(WEB).decode()) == WEB


def test_a_json_file_may_be_written_like_a_toml_file():
    assert of_file("web.json", json.dumps({"id": "web"})) == Metadata(vm=Vm(id="web"))


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        pytest.param("x.toml", "id = ", "x.toml: Invalid value", id="no TOML"),
        pytest.param("x.json", "{", "x.json: Expecting", id="no JSON"),
        pytest.param("x.json", "[]", "x.json: expected the fields of a VM", id="a list"),
        pytest.param(
            "x.toml", "id = 'a'\nvcpus = 'b'", "x.toml: vm.vcpus: expected int, got str", id="type"
        ),
        pytest.param(
            "x.toml",
            "id = 'a'\nmem = 1",
            "x.toml: vm.mem: unknown field",
            id="key",
        ),
        pytest.param(
            "x.toml",
            "id = 'a'\n[[vifs]]\nid = 'n'",
            "x.toml: vifs[0].backend: missing",
            id="a device",
        ),
    ],
)
def test_a_bad_file_is_refused_with_the_field(name: str, text: str, reason: str):
    with pytest.raises(BadVm) as raised:
        of_file(name, text)
    assert str(raised.value).startswith(reason)


def test_options_make_a_vm():
    found = of_options(
        {"id": "web", "name": None, "vcpu_max": 2},
        {"type": None, "kernel": "/k"},
        ["/disk,format=qcow2", "/iso,type=cdrom,name=cd"],
        ["br0,mtu=9000"],
    )
    assert found == Metadata(
        vm=Vm(id="web", vcpu_max=2, guest=Hvm(kernel="/k")),
        vbds=[
            Vbd(id="web/disk0", position=0, backend=Local(path="/disk", format="qcow2")),
            Vbd(id="web/cd", position=1, type="cdrom", backend=Local(path="/iso")),
        ],
        vifs=[Vif(id="web/nic0", position=0, mtu=9000, backend=Bridge(name="br0"))],
    )


def test_a_root_of_a_container():
    spec = disk("/base.tar,format=tar,overlay,mount=/", 0)
    assert msgspec.convert(spec | {"id": "a/disk0"}, Vbd) == Vbd(
        id="a/disk0",
        position=0,
        mount=Mount(path="/"),
        backend=Local(path="/base.tar", format="tar", overlay=True),
    )


def test_an_interface_has_addresses_and_is_locked_to_them():
    spec = nic("br0,ipv4=192.0.2.7/24,gateway=192.0.2.1,ipv6=2001:db8::7/64,locked", 0)
    assert msgspec.convert({**spec, "id": "a/nic0"}, Vif) == Vif(
        id="a/nic0",
        position=0,
        backend=Bridge(name="br0"),
        ipv4=IpConfiguration(type="static", addresses=["192.0.2.7/24"], gateway="192.0.2.1"),
        ipv6=IpConfiguration(type="static", addresses=["2001:db8::7/64"]),
        locking_mode=Locked(ipv4=["192.0.2.7"], ipv6=["2001:db8::7"]),
    )


def test_an_interface_asks_for_its_address():
    assert nic("br0,ipv4=dhcp", 0)["ipv4"] == {"type": "dhcp"}


@pytest.mark.parametrize(
    "spec",
    ["br0,locked", "br0,locked,ipv4=dhcp", "br0,gateway=192.0.2.1", "br0,gateway=fe80::1,ipv6=dhcp"],
)
def test_an_interface_without_the_address_it_needs_is_refused(spec: str):
    with pytest.raises(BadVm, match="ADDRESS/LENGTH"):
        nic(spec, 0)


@pytest.mark.parametrize("spec", ["/disk,format", "/disk,qcow2"])
def test_a_disk_option_without_its_value_is_refused(spec: str):
    with pytest.raises(BadVm, match="=VALUE"):
        disk(spec, 0)


def test_an_unknown_option_of_an_interface_is_refused():
    with pytest.raises(BadVm, match=r"vifs\[0\].speed: unknown field"):
        of_options({"id": "a"}, {}, [], ["br0,speed=1"])


def test_an_interface_keeps_what_was_given():
    assert nic("br0,mac=02:00:00:00:00:01,name=lan", 3) == {
        "id": "lan",
        "position": 3,
        "backend": {"type": "bridge", "name": "br0"},
        "mac": "02:00:00:00:00:01",
    }


@pytest.mark.parametrize(
    ("text", "count"),
    [("1024", 1024), ("1K", 1024), ("512M", 512 << 20), ("1.5g", 3 << 29), ("2GiB", 2 << 30)],
)
def test_sizes(text: str, count: int):
    assert size(text) == count


@pytest.mark.parametrize("text", ["", "M", "5X", "1 2", "inf"])
def test_what_is_no_size(text: str):
    with pytest.raises(BadVm, match="512M"):
        size(text)


@pytest.mark.parametrize(("said", "persistent"), [("true", True), ("false", False)])
def test_a_disk_is_persistent_or_not(said: str, persistent: bool):
    assert disk(f"/d,persistent={said}", 0)["persistent"] is persistent


@pytest.mark.parametrize("spec", ["/d,persistent=no", "/d,persistent=0", "/d,overlay=maybe"])
def test_a_word_that_is_neither_true_nor_false_is_refused(spec: str):
    with pytest.raises(BadVm, match=r"write (persistent|overlay)=true or"):
        disk(spec, 0)


def test_a_file_that_is_nested_too_deeply_is_refused():
    with pytest.raises(BadVm, match=r"x\.json"):
        of_file("x.json", '{"a":' * 100_000)
