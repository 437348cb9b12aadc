"""The published document: complete, resolvable, and in agreement with what is decoded."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import msgspec
import pytest

from idl import errors
from idl.metadata import Metadata
from idl.openrpc import document
from idl.pci import Pci
from idl.vbd import Local, Mount, Vbd, VbdQos, Vdi
from idl.vif import Bridge, IpConfiguration, Locked, Rate, Vif
from idl.vm import Action, Container, Hvm, Pv, Pvh, Scheduler, Vm

DEBUG = {"DEBUG.trigger", "DEBUG.shutdown"}
NAMES = {
    "read": """
        rpc.discover HOST.query HOST.stat HOST.list_foreign HOST.get_worker_pool
        VM.stat VM.list VM.exists VM.metrics VBD.stat VBD.list VIF.stat VIF.list
        PCI.stat PCI.list TASK.stat TASK.list TASK.wait
        UPDATES.get UPDATES.last_id UPDATES.subscribe
    """,
    "private": "HOST.get_console_data HOST.get_diagnostics VM.export_metadata",
    "change": """
        HOST.set_worker_pool_size TASK.cancel TASK.destroy
        UPDATES.inject_barrier UPDATES.remove_barrier UPDATES.refresh_vm
    """,
    "queued": """
        VM.add VM.remove VM.set VM.import_metadata VM.release
        VBD.add VBD.remove VIF.add VIF.remove PCI.add PCI.remove
    """,
    "operation": """
        VM.start VM.shutdown VM.reboot VM.pause VM.unpause VM.suspend VM.resume VM.migrate
        VM.create VM.build VM.create_device_model VM.destroy VM.set_vcpus
        VM.set_memory_dynamic_range VM.set_xsdata VM.delay VM.adopt VM.forget
        VBD.plug VBD.unplug VBD.insert VBD.eject VIF.plug VIF.unplug VIF.move VIF.set_carrier
        VIF.set_locking_mode VIF.set_ipv4_configuration VIF.set_ipv6_configuration VIF.set_rate
        PCI.plug PCI.unplug
    """,
    "debug": " ".join(DEBUG),
}
KINDS = {kind: set(names.split()) for kind, names in NAMES.items()}

DOCUMENT = document(debug=True, version="1.2.3")
METHODS = {method["name"]: method for method in DOCUMENT["methods"]}

VBD = Vbd(
    id="a/root",
    position=0,
    mount=Mount(path="/", options=["noatime"]),
    backend=Local(path="/images/base.tar", format="tar", overlay=True),
    qos=VbdQos(read_iops=100),
)
VIF = Vif(
    id="a/eth0",
    mac="02:00:00:00:00:01",
    rate=Rate(kbps=1000, burst=10),
    backend=Bridge(name="br0"),
    locking_mode=Locked(ipv4=["10.0.0.2"]),
    ipv4=IpConfiguration(type="static", addresses=["10.0.0.2/24"], gateway="10.0.0.1"),
)
PCI = Pci(id="a/gpu", address="0000:01:00.0")
VM = Vm(
    id="a",
    guest=Container(init=["/sbin/init"], environment={"A": "b"}),
    on_crash=[Action.COREDUMP, Action.START],
    scheduler=Scheduler(affinity=[[0, 1]]),
    platform={"machine": "q35", "nested": True, "cores": 2, "ratio": 0.5},
)


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        yield from node.get("discriminator", {}).get("mapping", {}).values()
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from references(child)


def resolve(reference: str) -> Any:
    node: Any = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        node = node[part]
    return node


def schema(method: str, parameter: str) -> dict[str, Any]:
    (found,) = [p["schema"] for p in METHODS[method]["params"] if p["name"] == parameter]
    return {**found, "components": DOCUMENT["components"]}


@pytest.mark.parametrize(
    ("kind", "names"), [pytest.param(kind, names, id=kind) for kind, names in KINDS.items()]
)
def test_every_call_of_a_kind_is_listed(kind: str, names: set[str]):
    assert {name for name, m in METHODS.items() if m["x-kind"] == kind} == names


def test_without_debug_only_the_debug_calls_are_missing():
    shown = {method["name"] for method in document(debug=False, version="1")["methods"]}
    assert set(METHODS) - shown == DEBUG


def test_the_document_has_the_shape_of_openrpc():
    assert DOCUMENT["openrpc"].startswith("1.")
    assert DOCUMENT["info"]["title"] == "xenopsd"
    assert DOCUMENT["info"]["version"] == "1.2.3"
    for method in METHODS.values():
        assert method["summary"].endswith(".")
        assert method["paramStructure"] == "either"
        assert set(method["result"]) >= {"name", "schema"}
        for parameter in method["params"]:
            assert set(parameter) >= {"name", "required", "schema"}


def test_required_parameters_come_before_optional_ones():
    for method in METHODS.values():
        required = [parameter["required"] for parameter in method["params"]]
        assert required == sorted(required, reverse=True), method["name"]


def test_every_reference_resolves():
    found = set(references(DOCUMENT))
    assert {r.split("/")[2] for r in found} == {"schemas", "errors", "tags"}
    for reference in found:
        assert resolve(reference)


def test_every_method_is_tagged_with_its_namespace():
    for name, method in METHODS.items():
        (tag,) = [resolve(t["$ref"]) for t in method["tags"]]
        assert tag["name"] == name.partition(".")[0]


def test_every_error_is_there_with_its_code_and_facts():
    described = DOCUMENT["components"]["errors"]
    assert {name: e["code"] for name, e in described.items()} == {
        name: cls.code for name, cls in errors.BY_NAME.items()
    }
    assert described["NotEnoughMemory"]["data"]["required"] == ["error", "needed", "free"]
    assert "{needed} bytes" in described["NotEnoughMemory"]["message"]
    assert "needs it {expected}" in described["BadPowerState"]["message"]


def test_an_error_object_fits_its_published_schema():
    raised = errors.Interrupted(task="t", begun=True, recovered_to="halted").error_object()
    jsonschema.validate(raised.data, DOCUMENT["components"]["errors"]["Interrupted"]["data"])


def test_a_method_lists_the_errors_that_the_call_can_end_with():
    def listed(name: str) -> set[str]:
        return {e["$ref"].rpartition("/")[2] for e in METHODS[name]["errors"]}

    assert {"DoesNotExist", "MetadataCorrupt", "PermissionDenied"} <= listed("VM.start")
    assert "BadPowerState" not in listed("VM.start")
    assert "BadPowerState" in listed("VM.remove")
    assert "MetadataCorrupt" not in listed("TASK.stat")
    assert "DoesNotExist" not in listed("VM.list") | listed("VM.exists")


def test_the_subscription_says_what_it_notifies():
    notification = METHODS["UPDATES.subscribe"]["x-notification"]
    assert notification["method"] == "updates"
    assert resolve(notification["params"]["$ref"])["title"] == "UpdateBatch"


def test_the_document_is_json():
    assert json.loads(msgspec.json.encode(DOCUMENT)) == DOCUMENT


@pytest.mark.parametrize(
    ("method", "parameter", "sample"),
    [
        pytest.param("VM.add", "vm", VM, id="a container"),
        pytest.param("VM.add", "vm", Vm(id="h", guest=Hvm(firmware="uefi")), id="an hvm guest"),
        pytest.param("VM.add", "vm", Vm(id="p", guest=Pv(kernel="/k")), id="a pv guest"),
        pytest.param("VM.add", "vm", Vm(id="p", guest=Pvh(kernel="/k")), id="a pvh guest"),
        pytest.param("VBD.add", "vbd", VBD, id="a vbd"),
        pytest.param("VBD.insert", "backend", Vdi(sr="s", vdi="v"), id="a disk of a plugin"),
        pytest.param("VIF.add", "vif", VIF, id="a vif"),
        pytest.param("VIF.move", "backend", Bridge(name="br1"), id="a bridge"),
        pytest.param("VIF.set_locking_mode", "locking_mode", Locked(), id="a locking mode"),
        pytest.param("VIF.set_ipv4_configuration", "ipv4", IpConfiguration(), id="addresses"),
        pytest.param("VIF.set_rate", "rate", None, id="no rate"),
        pytest.param("VIF.set_rate", "rate", Rate(kbps=1), id="a rate"),
        pytest.param("PCI.add", "pci", PCI, id="a pci device"),
        pytest.param(
            "VM.import_metadata",
            "metadata",
            Metadata(vm=VM, vbds=[VBD], vifs=[VIF], pcis=[PCI], extra={"a": [1]}),
            id="metadata",
        ),
        pytest.param("VM.start", "id", "a-1.b_2", id="an id"),
        pytest.param("VM.start", "task", "my-task", id="a task id"),
        pytest.param("VM.shutdown", "timeout", 2.5, id="a timeout"),
        pytest.param("VM.set", "changes", {"name": "x", "vcpus": 2}, id="changes"),
        pytest.param("UPDATES.get", "since", None, id="no token"),
        pytest.param("DEBUG.trigger", "args", ["vm_create", "2"], id="debug arguments"),
    ],
)
def test_a_schema_accepts_what_is_sent(method: str, parameter: str, sample: Any):
    jsonschema.validate(json.loads(msgspec.json.encode(sample)), schema(method, parameter))


@pytest.mark.parametrize(
    ("method", "parameter", "sample"),
    [
        pytest.param("VM.add", "vm", {"id": "a", "memory": 1}, id="an unknown field"),
        pytest.param("VM.add", "vm", {"id": "a", "vcpus": "2"}, id="a wrong type"),
        pytest.param("VM.start", "id", ".hidden", id="an id with a leading dot"),
        pytest.param("VM.start", "id", "a\n", id="an id with a final newline"),
        pytest.param("VBD.insert", "backend", {"type": "nfs"}, id="an unknown variant"),
        pytest.param("VM.shutdown", "timeout", -1, id="a negative timeout"),
    ],
)
def test_a_schema_refuses_what_the_daemon_refuses(method: str, parameter: str, sample: Any):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(sample, schema(method, parameter))
