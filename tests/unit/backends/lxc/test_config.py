"""liblxc's configuration, as text."""

from pathlib import Path

import pytest
from msgspec.structs import replace
from rigs.records import container

from backends.lxc.config import Host, render, require, root_of, seccomp
from backends.lxc.places import Place
from backends.lxc.record import ContainerVbd, Record
from idl.errors import InvalidParameter
from idl.vbd import Local
from idl.vm import Container, Vm

RECORD = container(
    built=True,
    vcpus=1,
    hostname="web",
    environment={"A": "b = 'c' "},
    vbds={
        "web/data": ContainerVbd(
            position=1, target="/srv/with blank", medium=Local(path="/i/d", format="directory")
        ),
        "web/cd": ContainerVbd(position=2, target="/cd", type="cdrom"),
        "web/root": ContainerVbd(
            position=0, target="/", medium=Local(path="/i/r", format="directory")
        ),
    },
)
PLACE = Place(Path("/run/xenopsd/lxc/default/web"))

GOLDEN = """\
lxc.uts.name = web
lxc.rootfs.path = dir:/run/xenopsd/lxc/default/web/disks/root
lxc.namespace.share.net = /run/xenopsd/lxc/default/web/ns/net
lxc.namespace.share.user = /run/xenopsd/lxc/default/web/ns/user
lxc.idmap = u 0 1879048192 65536
lxc.idmap = g 0 1879048192 65536
lxc.cap.drop = mac_admin mac_override sys_time sys_module sys_rawio
lxc.seccomp.profile = /run/xenopsd/lxc/default/web/seccomp
lxc.apparmor.profile = unconfined
lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed
lxc.cgroup.pids.max = 10
lxc.cgroup.dir.container = xenopsd/default/web/i1/c
lxc.cgroup.dir.container.inner = i
lxc.cgroup.dir.monitor = xenopsd/default/web/i1/m
lxc.cgroup.dir.monitor.pivot = xenopsd/default/web/i1/p
lxc.console.path = none
lxc.tty.max = 0
lxc.pty.max = 1024
lxc.mount.entry = /run/xenopsd/lxc/default/web/tty dev/console none bind,create=file 0 0
lxc.hook.version = 1
lxc.hook.start-host = >/dev/null; echo $LXC_PID >/run/xenopsd/lxc/default/web/init; \
echo >/run/xenopsd/lxc/default/web/started
lxc.hook.post-stop = /bin/false
lxc.monitor.signal.pdeath = 0
lxc.log.file = /run/xenopsd/lxc/default/web/log
lxc.log.level = WARN
lxc.environment = "A=b = 'c' "
lxc.mount.entry = /run/xenopsd/lxc/default/web/xsdata dev/xsdata none bind,ro,create=dir 0 0
lxc.mount.entry = /run/xenopsd/lxc/default/web/disks/data srv/with\\040blank none \
rbind,create=dir 0 0
"""


def lines(record: Record, *, apparmor: bool = False) -> list[str]:
    limits = [("lxc.cgroup.pids.max", "10")]
    return render(record, PLACE, limits, Host(apparmor=apparmor)).splitlines()


def test_an_unprivileged_container():
    assert lines(RECORD) == GOLDEN.splitlines()


def test_a_privileged_one_has_no_users_of_its_own():
    found = lines(replace(RECORD, first_id=0))
    assert not [line for line in found if "idmap" in line or "share.user" in line]
    assert "lxc.seccomp.profile = /run/xenopsd/lxc/default/web/seccomp" in found


def test_a_profile_of_apparmor_where_the_host_has_it():
    assert "lxc.apparmor.profile = generated" in lines(RECORD, apparmor=True)


def test_nesting_may_mount_sys():
    found = lines(replace(RECORD, nesting=True), apparmor=True)
    assert "lxc.mount.auto = proc:mixed sys:rw cgroup:mixed" in found
    assert "lxc.apparmor.allow_nesting = 1" in found


def test_the_root_file_system_is_the_vbd_at_position_0():
    assert root_of(RECORD) == RECORD.vbds["web/root"]
    assert root_of(replace(RECORD, vbds={})) is None


def test_modules_and_kexec_are_refused():
    assert {"init_module errno 1", "kexec_load errno 1"} <= set(seccomp().splitlines())
    assert seccomp().splitlines()[:2] == ["2", "denylist"]


@pytest.mark.parametrize(
    ("guest", "platform", "names"),
    [
        (Container(environment={"A B": ""}), {}, "vm.guest.environment"),
        (Container(environment={"A": "x\nlxc.hook.pre-start = /x"}), {}, "vm.guest.environment"),
        (Container(hostname="-a"), {}, "vm.guest.hostname"),
        (Container(hostname="a\nb"), {}, "vm.guest.hostname"),
        (Container(init=[]), {}, "vm.guest.init"),
        (Container(init=["sh"]), {}, "vm.guest.init"),
        (Container(init=["/sh", "a\0b"]), {}, "vm.guest.init"),
        (Container(), {"halt_signal": "SIGNONE"}, "vm.platform.halt_signal"),
        (Container(), {"reboot_signal": 15}, "vm.platform.reboot_signal"),
    ],
)
def test_what_would_be_another_configuration_is_refused(guest, platform, names):
    with pytest.raises(InvalidParameter) as refused:
        require(Vm(id="web", guest=guest, platform=platform))
    assert refused.value.name == names


def test_a_usual_container_is_taken():
    guest = Container(init=["/bin/sh", "-c", "a b"], environment={"A": "b c"}, hostname="web.lan")
    require(Vm(id="web", guest=guest, platform={"halt_signal": "SIGRTMIN+3"}))
