"""The committed namespaces are what the declarations say."""

import ast
from typing import Any

import pytest

from idl import generate
from idl.calls import CALLS
from idl.vbd import Disk
from idl.vif import Rate
from idl.vm import VmRecord


@pytest.mark.parametrize("flavour", generate.FLAVOURS, ids=lambda flavour: flavour.module)
def test_the_committed_module_is_what_is_rendered(flavour: generate.Flavour):
    assert flavour.target.read_text() == generate.render(flavour), "run python -m idl.generate"


def test_every_call_has_a_method_but_the_subscription():
    tree = ast.parse(generate.render(generate.SYNC))
    made = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "calls"
    }
    wanted = {call.__name__ for call in CALLS.values()}
    assert made - {"Call"} == wanted - {"UpdatesSubscribe"}


def test_own_parameters_go_by_position_and_those_of_the_base_by_name():
    text = generate.render(generate.SYNC)
    assert (
        "def shutdown(\n"
        "        self,\n"
        "        id: VmId,\n"
        "        timeout: Seconds | None = None,\n"
        "        force: bool = False,\n"
        "        *,\n"
        '        debug_info: str = "",\n'
        "        task: TaskId | None = None,\n"
        "    ) -> TaskId:\n"
    ) in text


def test_the_awaiting_flavour_differs_in_the_waiting_alone():
    blocking, awaiting = generate.render(generate.SYNC), generate.render(generate.ASYNC)
    assert "async def stat(self, id: VmId) -> VmRecord:" in awaiting
    assert "return await self._transport.send(calls.VmStat(id=id))" in awaiting
    reduced = awaiting.replace("async def", "def").replace("await ", "")
    same = reduced.replace("a client that awaits", "a client that blocks")
    assert ast.unparse(ast.parse(same)) == ast.unparse(ast.parse(blocking))


def test_the_awaiting_flavour_is_python():
    ast.parse(generate.render(generate.ASYNC))


@pytest.mark.parametrize(
    ("kind", "spelled"),
    [
        pytest.param(list[VmRecord], "builtins.list[VmRecord]", id="a list"),
        pytest.param(Rate | None, "Rate | None", id="an optional struct"),
        pytest.param(Disk, "Disk", id="a named union"),
        pytest.param(Disk | None, "Local | Vdi | None", id="an optional union"),
        pytest.param(dict[str, Any], "dict[str, Any]", id="a dictionary"),
        pytest.param(None, "None", id="nothing"),
    ],
)
def test_spells(kind: Any, spelled: str):
    assert generate.spell(kind) == spelled
