"""The daemon dies, stops, comes back: what its clients and its VMs keep."""

import json
import os
import signal
import time
from contextlib import suppress

import pytest
from rigs.daemon import eventually
from rigs.lab import check_sensible, plain, plugged, raises
from rigs.scenarios import usable

from idl.client import Client
from idl.errors import (
    DoesNotExist,
    Interrupted,
    InvalidParameter,
    MetadataCorrupt,
)
from idl.link import ConnectionFailed
from idl.task import Completed, Failed
from idl.vbd import Local, Vbd
from idl.vm import Vm
from journal.disk import RealDisk
from journal.records import Destroyed
from journal.tasklog import TaskLog


def killed(lab):
    """The daemon is gone, without a word."""
    lab.client.close()
    lab.daemon.kill()


def back(lab, **environ):
    lab.daemon.start(environ)
    lab.daemon.recovered()


# What is kept


def test_vms_run_on_and_records_are_kept(start):
    lab = start()
    running, halted, suspended = lab.running(disks=2, nics=2, name="n"), lab.vm(), lab.suspended()
    paused = lab.vm()
    lab.run(lab.client.vm.start(paused, paused=True))
    lab.client.vm.set(running, {"vcpu_max": 8})
    before = {r.id: plain(r) for r in lab.client.vm.list()}
    devices = plain(lab.client.vbd.list(running)), plain(lab.client.vif.list(running))
    epoch = lab.client.host.query().epoch
    free = lab.client.host.stat().memory_free
    lab.restart()
    after = {r.id: plain(r) for r in lab.client.vm.list()}
    for record in (*before.values(), *after.values()):
        del record["state"]["observed_at"]
    assert after == before
    assert devices == (plain(lab.client.vbd.list(running)), plain(lab.client.vif.list(running)))
    assert lab.client.host.query().epoch != epoch
    assert lab.client.host.stat().memory_free == free
    for id, state in (
        (running, "running"),
        (halted, "halted"),
        (suspended, "suspended"),
        (paused, "paused"),
    ):
        assert lab.sensible(id) == state
    lab.run(lab.client.vm.resume(suspended))
    lab.run(lab.client.vm.unpause(paused))
    for id in (running, suspended, paused):
        usable(lab, id)


def test_a_shell_that_a_toolstack_left_is_kept(start):
    lab = start()
    created, built = lab.vm(), lab.vm()
    lab.run(lab.client.vm.create(created))
    lab.run(lab.client.vm.create(built))
    lab.run(lab.client.vm.build(built))
    before = [lab.stat(id).state.incarnation for id in (created, built)]
    lab.restart()
    assert [lab.stat(id).state.incarnation for id in (created, built)] == before
    lab.run(lab.client.vm.build(created))
    for id in (created, built):
        lab.run(lab.client.vm.create_device_model(id))
        lab.run(lab.client.vm.unpause(id))
        assert lab.sensible(id) == "running"


def test_ended_tasks_are_kept_with_their_ids(start):
    lab = start()
    id = lab.vm()
    good = lab.run(lab.client.vm.start(id, debug_info="a tag"))
    bad = lab.end(lab.client.vm.start(id))
    destroyed = lab.run(lab.client.vm.pause(id))
    lab.client.task.destroy(destroyed.id)
    lab.restart()
    assert lab.client.task.stat(good.id) == good
    assert lab.client.task.wait(bad.id) == bad
    assert {good.id, bad.id} <= {t.id for t in lab.client.task.list()}
    raises(DoesNotExist, lambda: lab.client.task.stat(destroyed.id))
    again = lab.run(lab.client.vm.unpause(id))
    assert again.id not in (good.id, bad.id, destroyed.id)


def test_a_task_destroyed_before_its_journal_was_truncated_stays_away(start):
    """The worker that has answered a task truncates the journal only then."""
    lab = start()
    id = lab.running()
    # Until the start's own journal is crossed out, the point would be that one's.
    lab.sensible(id)
    lab.trigger("kill-at", "journal:end", 1)
    with suppress(ConnectionFailed), Client(lab.daemon.socket, reconnect=0) as client:
        client.vm.pause(id, task="mine")
        client.task.wait("mine")
    lab.daemon.process.wait(30)
    log = TaskLog(RealDisk(), lab.daemon.state_dir / "tasks.log")
    assert "mine" in log.load().ended
    log.append([Destroyed(id="mine")])
    log.close()
    lab.daemon.start()
    lab.daemon.recovered()
    raises(DoesNotExist, lambda: lab.client.task.stat("mine"))
    assert lab.sensible(id) == "paused"


def test_an_id_chosen_by_a_client_is_known_after_a_crash(start):
    lab = start()
    id = lab.vm()
    lab.run(lab.client.vm.start(id, task="mine"))
    lab.restart()
    assert lab.client.vm.start(id, task="mine") == "mine"
    assert isinstance(lab.client.task.stat("mine").state, Completed)
    error = raises(InvalidParameter, lambda: lab.client.vm.shutdown(id, task="mine"))
    assert error.name == "task"
    assert lab.sensible(id) == "running"


def test_an_id_of_a_cut_task_is_known_after_a_crash(start):
    lab = start()
    id = lab.vm()
    lab.trigger("set-latency", "vm_build", 5)
    lab.client.vm.start(id, task="mine")
    lab.began("mine", "vm_build")
    killed(lab)
    back(lab)
    assert lab.client.vm.start(id, task="mine") == "mine"
    found = lab.end("mine")
    assert found.interrupted
    assert lab.sensible(id) == ("running" if isinstance(found.state, Completed) else "halted")


def test_tasks_that_had_not_begun_end_interrupted(start):
    lab = start()
    id = lab.vm()
    held = lab.client.vm.delay(id, 3600)
    lab.began(held)
    queued = [lab.client.vm.start(id), lab.client.vm.shutdown(id), lab.client.vm.pause(id)]
    # The hard shutdown has cancelled what came before it; what came after it has not begun.
    lab.run(queued[1])
    again = lab.client.vm.delay(id, 3600)
    lab.began(again)
    waiting = [lab.client.vm.start(id), lab.client.vm.reboot(id)]
    killed(lab)
    back(lab)
    for task in waiting:
        error = lab.failure(task, Interrupted)
        assert (error.task, error.begun) == (task, False)
        assert lab.client.task.stat(task).interrupted
        assert lab.client.task.stat(task).subtasks == []
    assert lab.end(again).interrupted
    assert lab.sensible(id) == "halted"


# Cut in the middle

CUT = [
    ("halted", "start", {}, "vm_create:before", {"running", "halted"}),
    ("halted", "start", {}, "vm_create:after", {"running", "halted"}),
    ("halted", "start", {}, "vif_plug:after", {"running", "halted"}),
    ("halted", "start", {}, "vm_unpause:after", {"running"}),
    ("running", "reboot", {}, "vm_destroy:after", {"running"}),
    ("running", "reboot", {}, "vm_build:before", {"running"}),
    ("running", "shutdown", {}, "vm_pause:after", {"halted"}),
    ("running", "shutdown", {"timeout": 30}, "vm_destroy:before", {"halted"}),
    ("running", "suspend", {}, "vm_save:after", {"running", "suspended"}),
    ("running", "suspend", {}, "vm_commit_image:after", {"suspended"}),
    ("suspended", "resume", {}, "vm_restore:after", {"running", "suspended"}),
    ("suspended", "resume", {}, "vm_spend_image:after", {"running"}),
    ("running", "pause", {}, "vm_pause:after", {"running", "paused"}),
    ("running", "pause", {}, "journal:append", {"running", "paused"}),
    ("halted", "start", {}, "journal:end", {"running"}),
]


@pytest.mark.parametrize(
    ("before", "operation", "args", "point", "ends"),
    CUT,
    ids=[f"{o} at {p}" for _, o, _, p, _ in CUT],
)
def test_an_operation_cut_by_a_crash_is_finished_or_taken_back(
    start, before, operation, args, point, ends
):
    lab = start()
    id = lab.vm(disks=2, nics=2)
    if before != "halted":
        lab.run(lab.client.vm.start(id))
    if before == "suspended":
        lab.run(lab.client.vm.suspend(id))
    bystander = lab.running()
    for vm in (id, bystander):
        lab.sensible(vm)
    lab.client.debug.trigger("kill-at", [point, "1"])
    # The task may have ended, and been told, before its journal is crossed out.
    with pytest.raises(ConnectionFailed) if point != "journal:end" else suppress(ConnectionFailed):
        lab.client.run(getattr(lab.client.vm, operation)(id, task="cut", **args))
    assert lab.daemon.wait() == -signal.SIGKILL
    lab.client.close()
    back(lab)
    found = lab.end("cut")
    state = lab.sensible(id)
    assert state in ends
    if point != "journal:end":
        assert found.interrupted
    if isinstance(found.state, Failed):
        error = lab.failure("cut", Interrupted)
        assert (error.task, error.begun) == ("cut", True)
        assert error.recovered_to == state
    assert lab.sensible(bystander) == "running"
    usable(lab, id)
    assert lab.client.host.get_diagnostics().journal == []


def test_a_crash_may_be_armed_for_the_next_start(start):
    lab = start()
    id = lab.running()
    killed(lab)
    lab.daemon.spawn({"XENOPSD_KILL_AT": "recovery:reconcile,1"})
    assert lab.daemon.wait() == -signal.SIGKILL
    back(lab)
    assert lab.sensible(id) == "running"


@pytest.mark.parametrize("args", [[], ["nonsense", "1"], ["a:b", "0"], ["a:b", "x"]])
def test_a_kill_point_has_a_form(lab, args):
    raises(InvalidParameter, lambda: lab.client.debug.trigger("kill-at", args))


def test_a_record_is_added_wholly_or_not_at_all(start):
    lab = start()
    for n in range(4):
        lab.client.vm.add(Vm(id=f"a{n}"))
    killed(lab)
    back(lab)
    for n in range(4):
        assert lab.sensible(f"a{n}") == "halted"
    for step in ("vm_remove_layers:before", "vm_remove_record:before", "vm_remove_record:after"):
        lab.client.vm.add(Vm(id="b"), replace=True)
        lab.client.debug.trigger("kill-at", [step, "1"])
        with pytest.raises(ConnectionFailed):
            lab.client.vm.remove("b")
        lab.daemon.wait()
        lab.client.close()
        back(lab)
        if lab.client.vm.exists("b"):
            assert lab.sensible("b") == "halted"


def test_a_crash_while_recovering_changes_nothing_about_the_outcome(start):
    lab = start()
    id = lab.vm(disks=2)
    lab.client.debug.trigger("kill-at", ["vm_build:after", "1"])
    with pytest.raises(ConnectionFailed):
        lab.client.run(lab.client.vm.start(id, task="cut"))
    lab.daemon.wait()
    lab.client.close()
    for point in ("recovery:load", "recovery:observe", "recovery:repair", "journal:append"):
        lab.daemon.spawn({"XENOPSD_KILL_AT": f"{point},1"})
        assert lab.daemon.wait() == -signal.SIGKILL
    back(lab)
    found = lab.end("cut")
    assert lab.sensible(id) == ("running" if isinstance(found.state, Completed) else "halted")
    usable(lab, id)


# While it comes back


def test_writes_queue_behind_the_repair(start):
    lab = start()
    ids = [lab.running() for _ in range(20)]
    killed(lab)
    lab.daemon.start()
    tasks = [lab.client.vm.pause(id) for id in ids]
    for task in tasks:
        lab.run(task)
    lab.daemon.recovered()
    for id in ids:
        assert lab.sensible(id) == "paused"


def test_reads_answer_at_once_with_what_was_recorded(start):
    lab = start()
    ids = [lab.running() for _ in range(20)]
    killed(lab)
    lab.daemon.start()
    for id in ids:
        state = lab.stat(id).state
        assert state.power_state == "running"
        assert state.observed_at is not None
    lab.daemon.recovered()


# Stopping


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "DEBUG.shutdown"])
def test_it_stops_when_told_and_leaves_every_vm_as_it_is(start, how):
    lab = start()
    running, suspended = lab.running(), lab.suspended()
    domain = lab.domain(running)
    if how == "DEBUG.shutdown":
        lab.client.debug.shutdown()
        assert lab.daemon.wait(15) == 0
    elif how == "SIGTERM":
        assert lab.daemon.stop() == 0
    else:
        lab.daemon.process.send_signal(signal.SIGINT)
        assert lab.daemon.wait(15) == 0
    lab.client.close()
    assert lab.domain(running) == domain
    back(lab)
    assert lab.sensible(running) == "running"
    assert lab.sensible(suspended) == "suspended"


def test_it_stops_within_ten_seconds_whatever_hangs(start, pool_size):
    lab = start("[deadlines]\nshort = 3000\njob = 3000\n")
    saving = lab.running() if pool_size > 1 else None
    waiting = lab.vm()
    lab.client.vm.delay(waiting, 3600)
    lab.trigger("hang", "vm_build", pool_size, "deaf")
    lab.trigger("hang", "vm_save", 1, "deaf")
    if saving:
        lab.began(lab.client.vm.suspend(saving), "vm_save")
    stuck = [lab.vm() for _ in range(pool_size)]
    for id in stuck:
        lab.client.vm.start(id)
    eventually(lambda: lab.client.host.get_worker_pool().busy >= 1)
    begin = time.monotonic()
    assert lab.daemon.stop(deadline=10) == 0
    assert time.monotonic() - begin <= 10
    lab.client.close()
    back(lab)
    for id in [*stuck, waiting]:
        lab.sensible(id, "halted", "running")


def test_a_micro_op_that_runs_gets_its_time_when_it_stops(start):
    lab = start()
    id = lab.vm()
    lab.trigger("set-latency", "vm_build", 0.5)
    task = lab.client.vm.start(id)
    lab.began(task, "vm_build")
    assert lab.daemon.stop() == 0
    lab.client.close()
    assert lab.domain(id).get("built"), "it was not cut"
    back(lab)
    assert lab.end(task).interrupted
    lab.sensible(id, "running", "halted")


# Reading the configuration again


def write(lab, config):
    file = lab.daemon.directory / "config.toml"
    file.write_text(config)
    lab.daemon.process.send_signal(signal.SIGHUP)


def test_sighup_reads_the_configuration_again(start):
    lab = start("workers = 2\n")
    assert lab.client.host.get_worker_pool().size == 2
    write(lab, 'workers = 3\n[deadlines]\nshort = 0.3\n[log]\nlevel = "debug"\n')
    eventually(lambda: lab.client.host.get_worker_pool().size == 3)
    id = lab.vm()
    lab.trigger("hang", "vm_build", 1)
    begin = time.monotonic()
    assert isinstance(lab.end(lab.client.vm.start(id)).state, Failed)
    assert time.monotonic() - begin < 8
    assert lab.sensible(id) == "halted"


@pytest.mark.parametrize(
    "bad", ["workers = 0\n", "wrokers = 3\n", "= =\n", '[log]\nlevel = "loud"\n']
)
def test_a_configuration_with_a_mistake_changes_nothing(start, bad):
    lab = start("workers = 2\n")
    id = lab.running()
    write(lab, bad)
    eventually(lambda: "reload_refused" in lab.daemon.log.read_text())
    assert lab.client.host.get_worker_pool().size == 2
    assert lab.sensible(id) == "running"
    write(lab, "workers = 5\n")
    eventually(lambda: lab.client.host.get_worker_pool().size == 5)


def test_the_size_of_the_pool_is_remembered(start):
    lab = start("workers = 2\n")
    lab.client.host.set_worker_pool_size(6)
    eventually(lambda: lab.client.host.get_worker_pool().size == 6)
    eventually(lambda: "6" in (lab.daemon.state_dir / "remembered.json").read_text())
    lab.restart()
    assert lab.client.host.get_worker_pool().size == 6
    lab.restart(XENOPSD_WORKERS="3")
    assert lab.client.host.get_worker_pool().size == 6, "it wins over environment and file"
    lab.daemon.arguments += ["--workers", "5"]
    lab.restart()
    assert lab.client.host.get_worker_pool().size == 5, "the command line wins over it"


def test_a_pool_size_that_was_answered_is_remembered_over_a_crash(start):
    lab = start("workers = 2\n")
    lab.client.host.set_worker_pool_size(7)
    lab.restart()
    assert lab.client.host.get_worker_pool().size == 7


# Damage


def test_a_damaged_record_is_shown_and_can_be_repaired(start):
    lab = start()
    damaged, other = lab.vm(disks=1), lab.running()
    killed(lab)
    file = lab.daemon.state_dir / "vm" / damaged / "config.json"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    back(lab)
    record = lab.stat(damaged)
    assert record.config is None
    assert str(file) in record.state.attention.reason
    assert record in lab.client.vm.list()
    assert lab.client.vm.exists(damaged)
    (shown,) = lab.client.host.get_diagnostics().quarantined
    assert (shown.vm, shown.path) == (damaged, str(file))
    assert shown.reason
    vm = lab.client.vm
    for call in (
        lambda: vm.start(damaged),
        lambda: vm.shutdown(damaged),
        lambda: vm.set(damaged, {"name": "x"}),
        lambda: vm.remove(damaged),
        lambda: vm.export_metadata(damaged),
        lambda: lab.client.vbd.list(damaged),
        lambda: lab.client.vbd.stat(f"{damaged}/disk0"),
        lambda: lab.client.vbd.add(Vbd(id=f"{damaged}/d", backend=Local(path="/a"))),
    ):
        assert raises(MetadataCorrupt, call).path == str(file)
    assert lab.sensible(other) == "running"
    vm.add(Vm(id=damaged, name="repaired"), replace=True)
    assert lab.stat(damaged).config.name == "repaired"
    assert lab.sensible(damaged) == "halted"
    assert lab.client.host.get_diagnostics().quarantined == []
    usable(lab, damaged)
    lab.restart()
    assert lab.sensible(damaged) == "halted"


def test_what_a_guest_did_while_its_record_was_damaged_is_acted_on(start):
    lab = start()
    damaged = lab.running(disks=0, nics=0)
    killed(lab)
    (lab.daemon.state_dir / "vm" / damaged / "config.json").write_text("not a record\n")
    back(lab)
    lab.trigger("crash", damaged)
    lab.client.vm.add(Vm(id=damaged), replace=True)
    eventually(lambda: lab.power_state(damaged) == "halted")
    assert lab.sensible(damaged) == "halted"


def test_a_damaged_record_is_not_added_again_but_may_be_forgotten(start):
    lab = start()
    damaged = lab.vm()
    killed(lab)
    (lab.daemon.state_dir / "vm" / damaged / "config.json").write_text("not a record\n")
    back(lab)
    with pytest.raises(Exception, match=damaged):
        lab.client.vm.add(Vm(id=damaged))
    lab.run(lab.client.vm.forget(damaged))
    assert not lab.client.vm.exists(damaged)
    lab.client.vm.add(Vm(id=damaged))
    assert lab.sensible(damaged) == "halted"


@pytest.mark.parametrize("name", ["extra.json", "journal"])
def test_a_vm_whose_other_files_are_damaged_is_set_aside_and_runs_on(start, name):
    lab = start()
    damaged, other = lab.running(), lab.running()
    domain = lab.domain(damaged)
    killed(lab)
    file = lab.daemon.state_dir / "vm" / damaged / name
    file.write_bytes(b'{"broken": 1}\nmore\n{"x"\n')
    back(lab)
    record = lab.stat(damaged)
    assert record.state.attention is not None
    assert str(file) in record.state.attention.reason
    assert lab.domain(damaged) == domain, "in doubt nothing is touched"
    assert lab.sensible(other) == "running"
    lab.client.vm.add(Vm(id=damaged), replace=True)
    assert lab.stat(damaged).state.power_state == "running"
    lab.run(lab.client.vm.shutdown(damaged))
    assert lab.sensible(damaged) == "halted"
    assert not plugged(lab.daemon, damaged)


@pytest.mark.parametrize("damage", ["a torn last line", "a damaged middle", "nonsense", "gone"])
def test_a_damaged_task_log_costs_tasks_and_nothing_else(start, damage):
    lab = start()
    id = lab.running()
    killed(lab)
    file = lab.daemon.state_dir / "tasks.log"
    lines = file.read_bytes().splitlines(keepends=True)
    match damage:
        case "a torn last line":
            file.write_bytes(b"".join(lines)[:-10])
        case "a damaged middle":
            file.write_bytes(b"".join([*lines[:1], b"{}\n", *lines[2:]]))
        case "nonsense":
            file.write_bytes(os.urandom(1000))
        case "gone":
            file.unlink()
    back(lab)
    assert lab.sensible(id) == "running"
    usable(lab, id)
    lab.restart()
    assert lab.sensible(id) == "halted"


def test_a_torn_journal_line_is_cut(start):
    lab = start()
    id = lab.running()
    assert lab.sensible(id) == "running"
    killed(lab)
    with (lab.daemon.state_dir / "vm" / id / "journal").open("ab") as journal:
        journal.write(b'{"seq":1,"crc":"0000')
    back(lab)
    assert lab.sensible(id) == "running"
    usable(lab, id)


# Sockets


def test_a_stale_socket_is_replaced(start):
    lab = start()
    killed(lab)
    assert lab.daemon.socket.exists()
    back(lab)
    assert lab.client.host.query().name == "xenopsd"


def test_both_sockets_have_their_mode(start):
    lab = start()
    for path in (lab.daemon.socket, lab.daemon.readonly_socket):
        assert path.stat().st_mode & 0o777 == 0o660


def test_the_state_is_readable_json(start):
    lab = start()
    id = lab.running()
    stored = json.loads((lab.daemon.state_dir / "vm" / id / "config.json").read_text())
    assert id in json.dumps(stored)
    assert check_sensible(lab.daemon, lab.client, id) == "running"
