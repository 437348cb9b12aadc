"""Names of what a container has on its host."""

from pathlib import Path

from backends.lxc.places import Place, group, interface, mark


def test_an_interface_has_a_name_that_linux_takes_and_its_own():
    found = {
        interface(instance, id, incarnation)
        for instance in ("default", "other")
        for id in ("web/eth0", "web/eth1", "web2/eth0")
        for incarnation in ("i1", "i2")
    }
    assert len(found) == 12
    assert all(len(name) <= 15 and name.startswith("xv") for name in found)


def test_the_marks_of_one_vm_are_not_the_beginning_of_anothers():
    assert mark("default", "web", "i1").startswith(mark("default", "web"))
    assert not mark("default", "web2", "i1").startswith(mark("default", "web"))


def test_groups_lie_beneath_their_vm():
    assert group("default", "web", "i1") == "xenopsd/default/web/i1"


def test_a_place_is_claimed_once(tmp_path):
    place = Place(tmp_path / "default" / "web")
    assert place.incarnation is None
    place.claim("i1")
    place.claim("i2")
    assert place.incarnation == "i1"


def test_a_disk_is_mounted_by_its_name():
    assert Place(Path("/run/web")).disk("web/root") == Path("/run/web/disks/root")
