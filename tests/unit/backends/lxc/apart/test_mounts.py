"""Lines of mountinfo."""

from backends.lxc.apart.mounts import Mount, at, listed, parsed


def test_a_line_with_and_without_propagation():
    shared = r"36 35 98:0 /a\040b /c\134d rw shared:1 master:2 - ext4 /dev/x rw"
    assert parsed(shared) == Mount(36, "98:0", "/a b", "/c\\d", "ext4")
    assert parsed("1 1 0:2 / / rw - overlay layers rw").kind == "overlay"


def test_the_root_is_mounted_and_a_file_is_not(tmp_path):
    assert at("/") in listed()
    assert at(str(tmp_path / "none")) is None
