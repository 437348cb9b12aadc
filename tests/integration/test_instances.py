"""Several daemons on one host: disjoint VMs, one state directory and one set of sockets each."""

import json
import os
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from rigs.daemon import DaemonProcess, eventually
from rigs.lab import Lab, raises

from idl.client import OutcomeUnknown
from idl.errors import (
    BadPowerState,
    HypervisorError,
    InvalidParameter,
    InvalidParams,
    MethodNotFound,
    OwnedByAnother,
)
from idl.metadata import Metadata
from idl.vbd import Local, Vbd
from idl.vm import Vm


@pytest.fixture
def instances(directory, request):
    """Starts instances that share a run directory, and perhaps a world."""
    daemons = []

    def started(name, *, world=None, jobs=4):
        own = directory / name
        own.mkdir()
        config = own / "config.toml"
        simulator = f'[simulator]\nworld = "{world}"\n' if world else ""
        config.write_text(f"jobs = {jobs}\n{simulator}")
        run = directory / "run"
        daemon = DaemonProcess(
            own, "--instance", name, "--run-dir", str(run), "--config", str(config)
        )
        daemon.socket = run / f"{name}.sock"
        daemon.readonly_socket = run / f"{name}-ro.sock"
        daemons.append(daemon)
        daemon.start()
        daemon.recovered()
        lab = Lab(daemon)
        request.addfinalizer(lab.client.close)
        return lab

    yield started
    for daemon in daemons:
        daemon.kill()


def test_instances_have_their_own_sockets_and_vms(instances):
    one, two = instances("one"), instances("two")
    assert one.client.host.query().instance == "one"
    assert two.client.host.query().instance == "two"
    a, b = one.running(), two.running()
    assert [r.id for r in one.client.vm.list()] == [a]
    assert [r.id for r in two.client.vm.list()] == [b]
    assert one.sensible(a) == two.sensible(b) == "running"


def test_a_vm_belongs_to_one_instance(instances):
    one, two = instances("one"), instances("two")
    id = one.running()
    for call in (
        lambda: two.client.vm.add(Vm(id=id)),
        lambda: two.client.vm.add(Vm(id=id), replace=True),
        lambda: two.client.vm.import_metadata(Metadata(vm=Vm(id=id))),
    ):
        error = raises(OwnedByAnother, call)
        assert (error.id, error.instance) == (id, "one")
    assert not two.client.vm.exists(id)
    assert one.sensible(id) == "running"
    one.run(one.client.vm.shutdown(id))
    one.client.vm.remove(id)
    two.client.vm.add(Vm(id=id))
    error = raises(OwnedByAnother, lambda: one.client.vm.add(Vm(id=id)))
    assert error.instance == "two"


def test_a_forgotten_vm_is_free(instances):
    one, two = instances("one"), instances("two")
    id = one.vm()
    one.run(one.client.vm.forget(id))
    two.client.vm.add(Vm(id=id))
    assert two.sensible(id) == "halted"


def test_a_claim_holds_while_its_instance_is_down_and_is_void_without_its_store(instances):
    one, two = instances("one"), instances("two")
    id = one.vm()
    one.client.close()
    one.daemon.kill()
    assert raises(OwnedByAnother, lambda: two.client.vm.add(Vm(id=id))).instance == "one"
    shutil.rmtree(one.daemon.state_dir)
    two.client.vm.add(Vm(id=id))
    assert two.sensible(id) == "halted"


def test_a_claim_says_who_has_the_vm(instances, directory):
    one = instances("one")
    id = one.vm()
    claim = json.loads((directory / "run" / "owners" / id).read_text())
    assert claim == {"instance": "one", "state_dir": str(one.daemon.state_dir)}
    one.client.vm.remove(id)
    assert not (directory / "run" / "owners" / id).exists()


def test_claims_are_made_good_at_start(instances, directory):
    one, two = instances("one"), instances("two")
    id = one.vm()
    one.client.close()
    one.daemon.kill()
    (directory / "run" / "owners" / id).unlink()
    one.daemon.start()
    one.daemon.recovered()
    assert raises(OwnedByAnother, lambda: two.client.vm.add(Vm(id=id))).instance == "one"


def test_instances_of_one_world_see_each_others_domains_as_foreign(instances, directory):
    world = directory / "world"
    one, two = instances("one", world=world), instances("two", world=world)
    a = one.running()
    two.restart()
    (foreign,) = two.client.host.list_foreign()
    assert (foreign.id, foreign.name) == (one.stat(a).state.domain_ids[0], a)
    b = two.running()
    assert two.stat(b).state.power_state == one.stat(a).state.power_state == "running"
    assert two.stat(b).state.domain_ids != one.stat(a).state.domain_ids
    two.run(two.client.vm.shutdown(b))
    assert one.stat(a).state.power_state == "running"


# Handing over


def layered(lab):
    """A halted VM with a layer that has been written to; its id, and what the layer holds."""
    base = Local(path="/images/base.qcow2", format="qcow2", overlay=True)
    id = lab.vm(vbds=lambda vm: [Vbd(id=f"{vm}/root", backend=base)])
    lab.run(lab.client.vm.start(id))
    lab.run(lab.client.vm.shutdown(id))
    layer = lab.daemon.world / "layers" / id / "root.json"
    layer.write_bytes(layer.read_bytes() + b"\n")
    return id, layer.read_bytes()


def test_a_vm_is_handed_over_with_its_layers_and_back(instances, directory):
    one, two = instances("one"), instances("two")
    id, written = layered(one)
    before = one.client.vm.export_metadata(id)
    for giver, taker, name in ((one, two, "two"), (two, one, "one")):
        token = giver.client.updates.last_id()
        giver.client.vm.release(id, name)
        assert not giver.client.vm.exists(id)
        removed = {u.id for u in giver.client.updates.get(token, 0.0).updates if u.removed}
        assert {id, f"{id}/root"} <= removed
        after = taker.client.vm.export_metadata(id)
        assert (after.vm, after.vbds, after.vifs) == (before.vm, before.vbds, before.vifs)
        assert taker.layers(id) == ["root.json"]
        assert giver.layers(id) == []
        assert (taker.daemon.world / "layers" / id / "root.json").read_bytes() == written
        taker.run(taker.client.vm.start(id))
        assert taker.sensible(id) == "running"
        error = raises(OwnedByAnother, lambda: giver.client.vm.add(Vm(id=id)))  # noqa: B023
        assert error.instance == name
        taker.run(taker.client.vm.shutdown(id))
    claim = json.loads((directory / "run" / "owners" / id).read_text())
    assert claim == {"instance": "one", "state_dir": str(one.daemon.state_dir)}


def test_instances_of_one_world_hand_over_too(instances, directory):
    world = directory / "world"
    one, two = instances("one", world=world), instances("two", world=world)
    id = one.vm()
    one.client.vm.release(id, "two")
    two.run(two.client.vm.start(id))
    assert two.power_state(id) == "running"
    assert not one.client.vm.exists(id)


def test_only_a_halted_vm_is_handed_over(instances):
    one, two = instances("one"), instances("two")
    for id in (one.running(), one.suspended()):
        error = raises(BadPowerState, lambda: one.client.vm.release(id, "two"))  # noqa: B023
        assert error.expected == ["halted"]
        assert not two.client.vm.exists(id)
        assert one.sensible(id) in ("running", "suspended")


def test_a_vm_is_handed_to_another_instance_that_answers(instances):
    one, two = instances("one"), instances("two")
    id, written = layered(one)
    error = raises(InvalidParameter, lambda: one.client.vm.release(id, "one"))
    assert (error.name, error.reason) == ("instance", f"VM {id} is there already")
    for nobody in ("../one", ""):
        raises(InvalidParams, lambda: one.client.vm.release(id, nobody))  # noqa: B023
    error = raises(InvalidParameter, lambda: one.client.vm.release(id, "three"))
    assert "start it first" in error.reason
    two.daemon.process.send_signal(signal.SIGSTOP)
    try:
        error = raises(InvalidParameter, lambda: one.client.vm.release(id, "two"))
    finally:
        two.daemon.process.send_signal(signal.SIGCONT)
    assert error.name == "instance"
    assert one.sensible(id) == "halted"
    assert (one.daemon.world / "layers" / id / "root.json").read_bytes() == written


def test_one_that_was_doubly_claimed_is_claimed_once_the_other_lets_go(instances, directory):
    one, two = instances("one"), instances("two")
    id = one.vm()
    one.client.close()
    one.daemon.kill()
    (directory / "run" / "owners" / id).unlink()
    two.client.vm.add(Vm(id=id))
    one.daemon.start()
    one.daemon.recovered()
    assert "the instance two" in one.stat(id).state.attention.reason
    error = raises(HypervisorError, lambda: one.run(one.client.vm.start(id)))
    assert "needs attention" in error.reason
    two.client.vm.remove(id)
    one.client.updates.refresh_vm(id)
    eventually(lambda: one.stat(id).state.attention is None)
    one.run(one.client.vm.start(id))
    assert one.sensible(id) == "running"


def test_a_record_that_the_other_has_is_not_taken_for_the_one_handed_over(instances, directory):
    one, two = instances("one"), instances("two")
    id = one.vm()
    one.client.close()
    one.daemon.kill()
    (directory / "run" / "owners" / id).unlink()
    two.client.vm.add(Vm(id=id, name="mine"))
    one.daemon.start()
    one.daemon.recovered()
    error = raises(InvalidParameter, lambda: two.client.vm.release(id, "one"))
    assert "has a record" in error.reason
    assert two.stat(id).config.name == "mine"
    assert one.client.vm.exists(id)


def test_instances_that_hand_over_to_each_other_do_not_wait_for_each_other(instances):
    one, two = instances("one", jobs=1), instances("two", jobs=1)
    crossing = [(one, "two", layered(one)[0]) for _ in range(6)]
    crossing += [(two, "one", layered(two)[0]) for _ in range(6)]
    with ThreadPoolExecutor(len(crossing)) as threads:
        # Long before the longest wait of the one for the other is over.
        answers = [
            threads.submit(giver.client.vm.release, id, to, timeout=50.0)
            for giver, to, id in crossing
        ]
        assert [answer.result(timeout=45) for answer in answers] == [None] * len(crossing)
    for giver, to, id in crossing:
        assert not giver.client.vm.exists(id)
        assert (two if to == "two" else one).sensible(id) == "halted"


@pytest.mark.parametrize("then", ["handed on", "handed on and back"])
def test_what_became_of_it_since_does_not_bring_it_back(instances, directory, then):
    """The giver dies once it is handed over, and finds later that it has gone further."""
    one, two, three = instances("one"), instances("two"), instances("three")
    id, written = layered(one)
    one.client.debug.trigger("kill-at", ["vm_hand_over:after", "1"])
    with pytest.raises(OutcomeUnknown):
        one.client.vm.release(id, "two")
    one.daemon.wait()
    two.client.vm.release(id, "three")
    if then == "handed on and back":
        three.client.vm.release(id, "two")
    one.client.close()
    one.daemon.start()
    one.daemon.recovered()
    eventually(lambda: not one.client.host.get_diagnostics().queues)
    labs = {"one": one, "two": two, "three": three}
    has = [name for name, lab in labs.items() if lab.client.vm.exists(id)]
    name = "three" if then == "handed on" else "two"
    assert has == [name]
    layer = labs[name].daemon.world / "layers" / id / "root.json"
    assert layer.read_bytes() == written
    claim = json.loads((directory / "run" / "owners" / id).read_text())
    assert claim["instance"] == name
    assert labs[name].sensible(id) == "halted"


# One daemon each


def attempt(daemon, *more):
    """What comes of a second daemon with these arguments."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("XENOPS")}
    done = subprocess.run(
        [*daemon.arguments, *more],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environ,
    )
    return done.returncode, done.stderr


def test_a_second_daemon_on_the_state_directory_is_refused(start, directory):
    lab = start()
    pid = lab.daemon.process.pid
    status, said = attempt(lab.daemon, "--run-dir", str(directory / "other"))
    assert status == 1
    assert f"instance default is already running, pid {pid}" in said
    assert lab.client.host.query().name == "xenopsd"


def test_a_second_daemon_on_the_sockets_is_refused(start, directory):
    lab = start()
    pid = lab.daemon.process.pid
    status, said = attempt(lab.daemon, "--state-dir", str(directory / "other"))
    assert status == 1
    assert f"instance default is already running, pid {pid}" in said
    assert lab.client.host.query().name == "xenopsd"


def test_after_a_crash_another_may_start_at_once(start):
    lab = start()
    id = lab.running()
    lab.restart()
    assert lab.sensible(id) == "running"


# Configuration


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ("wrokers = 3\n", "wrokers"),
        ("[journal]\nfsink = 'always'\n", "journal.fsink"),
        ("[simulator]\nmemmory_total = 1\n", "simulator.memmory_total"),
        ("workers = 0\n", "workers"),
        ("workers = 'many'\n", "workers"),
        ("no toml at all", "config.toml"),
    ],
)
def test_a_mistake_in_the_configuration_is_named(directory, config, named):
    daemon = DaemonProcess(directory / "d", "--config", str(directory / "config.toml"))
    (directory / "config.toml").write_text(config)
    status, said = attempt(daemon)
    assert status == 1
    assert named in said


def test_an_unknown_variable_is_named(directory):
    daemon = DaemonProcess(directory / "d")
    daemon.spawn({"XENOPSD_WROKERS": "3"})
    assert daemon.wait() == 1
    assert "XENOPSD_WROKERS" in daemon.log.read_text()


def test_an_unknown_backend_is_named(directory):
    daemon = DaemonProcess(directory / "d", backend="nonesuch")
    status, said = attempt(daemon)
    assert status == 1
    assert "nonesuch" in said


@pytest.mark.parametrize("instance", ["a/b", ".hidden", "-x", "a" * 65])
def test_the_name_of_an_instance_has_a_form(directory, instance):
    daemon = DaemonProcess(directory / "d", f"--instance={instance}")
    status, said = attempt(daemon)
    assert status == 1
    assert "instance" in said


def test_the_command_line_wins_over_environment_over_file(start):
    lab = start("workers = 2\n")
    assert lab.client.host.get_worker_pool().size == 2
    lab.restart(XENOPSD_WORKERS="3")
    assert lab.client.host.get_worker_pool().size == 3
    lab.daemon.arguments += ["--workers", "5"]
    lab.restart(XENOPSD_WORKERS="3")
    assert lab.client.host.get_worker_pool().size == 5


def test_logs_are_json_lines_on_stderr(start):
    lab = start()
    lab.run(lab.client.vm.start(lab.vm(), debug_info="a tag"))

    def logged():
        lines = lab.daemon.log.read_text().splitlines()
        return [json.loads(line) for line in lines if "a tag" in line]

    assert eventually(logged)[0]["debug_info"] == "a tag"


def test_without_debug_there_are_no_debug_calls(directory):
    daemon = DaemonProcess(directory / "d")
    daemon.arguments.remove("--debug")
    daemon.start()
    try:
        with daemon.client() as client:
            raises(MethodNotFound, lambda: client.debug.trigger("undeaf", []))
            assert "DEBUG.trigger" not in [m["name"] for m in client.rpc.discover()["methods"]]
    finally:
        daemon.kill()
