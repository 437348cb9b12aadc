"""Changes as an administrator writes them."""

import pytest

from idl.vm import Action, Scheduler, Vm
from xenopsd.cli.changes import assigned, editable, edited
from xenopsd.cli.vmfile import BadVm

WEB = Vm(id="web", vcpu_max=4, scheduler=Scheduler(weight=128))


@pytest.mark.parametrize(
    ("assignment", "changes"),
    [
        pytest.param("vcpus=2", {"vcpus": 2}, id="a number"),
        pytest.param("name=7", {"name": "7"}, id="a text that looks like a number"),
        pytest.param("name=a=b", {"name": "a=b"}, id="a text with an equals sign"),
        pytest.param("auto_start=true", {"auto_start": True}, id="a truth"),
        pytest.param("memory_dynamic_min=128M", {"memory_dynamic_min": 128 << 20}, id="a size"),
        pytest.param(
            "memory=1G",
            dict.fromkeys(
                ("memory_static_max", "memory_dynamic_max", "memory_dynamic_min"), 1 << 30
            ),
            id="all of the memory",
        ),
        pytest.param("on_crash=coredump,start", {"on_crash": ["coredump", "start"]}, id="a list"),
        pytest.param('on_crash=["pause"]', {"on_crash": ["pause"]}, id="JSON"),
        pytest.param(
            "scheduler.cap=50",
            {"scheduler": {"weight": 128, "cap": 50, "affinity": []}},
            id="a field within a field",
        ),
        pytest.param('xsdata={"a": "b"}', {"xsdata": {"a": "b"}}, id="an object"),
    ],
)
def test_an_assignment_changes_its_field(assignment: str, changes: dict[str, object]):
    assert assigned(WEB, [assignment]) == changes


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        pytest.param("vcpus", "vcpus: write FIELD=VALUE", id="no value"),
        pytest.param("vcpus=many", "vcpus: expected int, got str", id="of another type"),
        pytest.param("nothing=1", "nothing: unknown field", id="no field"),
        pytest.param("name.x=1", "name.x: there is no field name", id="nothing within it"),
        pytest.param("memory=lots", "lots is no size", id="no size"),
        pytest.param("on_crash=[", "on_crash: no JSON", id="no JSON"),
        pytest.param("vcpus=0", "vcpus: expected int >= 1", id="too little"),
    ],
)
def test_what_is_wrong_is_named(assignment: str, sentence: str):
    with pytest.raises(BadVm) as caught:
        assigned(WEB, [assignment])
    assert sentence in str(caught.value)


def test_an_edit_gives_what_differs():
    text = editable(WEB).replace("vcpus: 4", "vcpus: 1").replace("- shutdown", "- start", 1)
    assert edited(WEB, text) == {"vcpus": 1, "on_crash": [Action.START]}


def test_an_edit_without_changes_is_none():
    assert edited(WEB, f"# a comment\n{editable(WEB)}") == {}


def test_what_is_deleted_gets_its_default():
    text = "".join(f"{line}\n" for line in editable(WEB).splitlines() if "weight" not in line)
    assert edited(WEB, text) == {"scheduler": {"weight": 256, "cap": 0, "affinity": []}}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("id: [", "expected", id="no YAML"),
        pytest.param("- a", "expected the fields of a VM", id="no object"),
        pytest.param("id: other", "id: it cannot change", id="another VM"),
        pytest.param("id: web\nvcpus: many", "vcpus: expected int, got str", id="no number"),
    ],
)
def test_an_edit_that_is_wrong_is_told(text: str, sentence: str):
    with pytest.raises(BadVm) as caught:
        edited(WEB, text)
    assert sentence in str(caught.value)
