import pytest
from msgspec.structs import replace

from backends.simulator.layers import Layers, wanted
from idl.errors import StorageError
from idl.vbd import Local, Vbd, Vdi

BASE = Local(path="/base", overlay=True)
KEPT = Vbd(id="vm1/root", backend=BASE)
THROWN = Vbd(id="vm1/tmp", backend=BASE, persistent=False)


@pytest.mark.parametrize(
    ("vbd", "answer"),
    [
        pytest.param(KEPT, True, id="overlay"),
        pytest.param(THROWN, True, id="volatile"),
        pytest.param(Vbd(id="vm1/d", backend=Local(path="/d")), False, id="a disk of its own"),
        pytest.param(
            Vbd(id="vm1/d", backend=Vdi(sr="s", vdi="v"), persistent=False), True, id="plugin's"
        ),
        pytest.param(
            Vbd(id="vm1/d", backend=Local(path="/d", format="squashfs")), True, id="squashfs"
        ),
        pytest.param(replace(KEPT, mode="ro"), False, id="read-only"),
        pytest.param(Vbd(id="vm1/cd", type="cdrom", persistent=False), False, id="empty drive"),
    ],
)
def test_who_gets_a_layer(vbd, answer):
    assert wanted(vbd) is answer


@pytest.fixture
def layers(tmp_path):
    return Layers(tmp_path)


def _names(tmp_path):
    return sorted(path.name for path in (tmp_path / "vm1").iterdir())


def test_a_persistent_layer_is_the_same_for_every_incarnation(layers):
    assert layers.make(KEPT, "i1") == layers.make(KEPT, "i2") == "root.json"


def test_a_volatile_layer_is_each_incarnations_own(layers):
    assert layers.make(THROWN, "i1") != layers.make(THROWN, "i2")
    assert layers.of_incarnations("vm1")


def test_a_base_that_changed_under_a_layer_is_refused(layers):
    layers.make(KEPT, "i1")
    with pytest.raises(StorageError, match="another base"):
        layers.make(replace(KEPT, backend=Local(path="/other", overlay=True)), "i2")


def test_a_layer_that_cannot_be_read_is_refused(layers, tmp_path):
    layers.make(KEPT, "i1")
    (tmp_path / "vm1" / "root.json").write_text("{")
    with pytest.raises(StorageError):
        layers.make(KEPT, "i1")


def test_incarnations_end_and_take_only_their_layers(layers, tmp_path):
    layers.make(KEPT, "i1")
    layers.make(THROWN, "i1")
    layers.drop_incarnations("vm1")
    assert _names(tmp_path) == ["root.json"]


def test_what_is_suspended_outlives_its_incarnation_and_goes_to_the_next(layers, tmp_path):
    first = layers.make(THROWN, "i1")
    for _ in range(2):
        layers.suspend("vm1", first)
    layers.drop_incarnations("vm1")
    assert _names(tmp_path) == ["tmp@suspended.json"]
    suspended = (tmp_path / "vm1" / "tmp@suspended.json").read_bytes()
    second = layers.make(THROWN, "i2")
    for _ in range(2):
        layers.resume("vm1", second)
    assert _names(tmp_path) == [second]
    assert (tmp_path / "vm1" / second).read_bytes() == suspended


def test_a_persistent_layer_is_not_moved(layers, tmp_path):
    layers.suspend("vm1", layers.make(KEPT, "i1"))
    assert _names(tmp_path) == ["root.json"]


def test_a_new_start_drops_what_was_suspended(layers, tmp_path):
    layers.suspend("vm1", layers.make(THROWN, "i1"))
    layers.drop_suspended(THROWN)
    layers.drop_suspended(THROWN)
    assert _names(tmp_path) == []


def test_removing_a_vbd_takes_all_its_layers_and_no_others(layers, tmp_path):
    layers.make(KEPT, "i1")
    layers.suspend("vm1", layers.make(THROWN, "i1"))
    layers.make(THROWN, "i2")
    layers.drop("vm1/tmp")
    assert _names(tmp_path) == ["root.json"]
    layers.drop("vm1/root")
    assert not (tmp_path / "vm1").exists()
    layers.drop("vm1/root")


def test_removing_a_vm_takes_every_layer(layers, tmp_path):
    layers.make(KEPT, "i1")
    layers.suspend("vm1", layers.make(THROWN, "i1"))
    layers.drop_all("vm1")
    assert not (tmp_path / "vm1").exists()
    layers.drop_all("vm1")
