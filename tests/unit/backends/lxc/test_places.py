"""Names of what a container has on its host."""

from pathlib import Path

from backends.lxc.places import Names, Place

NAMES = Names(Path("/run/xenopsd/lxc"), "default")
OTHER = Names(Path("/home/a/run/lxc"), "default")


def test_an_interface_has_a_name_that_linux_takes_and_its_own():
    found = {
        names.interface(id, incarnation)
        for names in (NAMES, OTHER, Names(NAMES.run, "other"))
        for id in ("web/eth0", "web/eth1", "web2/eth0")
        for incarnation in ("i1", "i2")
    }
    assert len(found) == 18
    assert all(len(name) <= 15 and name.startswith("xv") for name in found)


def test_the_marks_of_one_vm_are_not_the_beginning_of_anothers():
    assert NAMES.mark("web", "i1").startswith(NAMES.mark("web"))
    assert not NAMES.mark("web2", "i1").startswith(NAMES.mark("web"))


def test_the_same_instance_with_another_directory_is_another_one():
    assert NAMES.mark("web") != OTHER.mark("web")
    assert NAMES.group("web") != OTHER.group("web")


def test_groups_lie_beneath_their_vm_and_their_instance():
    assert NAMES.group("web", "i1") == f"xenopsd/{NAMES.whole}/web/i1"
    assert NAMES.group("web") == f"xenopsd/{NAMES.whole}/web"
    assert NAMES.group() == f"xenopsd/{NAMES.whole}"


def test_a_place_is_claimed_once(tmp_path):
    place = Place(tmp_path / "default" / "web")
    assert place.incarnation is None
    place.claim("i1")
    place.claim("i2")
    assert place.incarnation == "i1"


def test_a_disk_is_mounted_by_its_name():
    assert Place(Path("/run/web")).disk("web/root") == Path("/run/web/disks/root")
