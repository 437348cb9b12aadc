"""Every command against a daemon of a few lines: what is called, printed and returned."""

import json
import signal
import threading
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner

from idl import errors
from idl.host import (
    Diagnostics,
    OpenIntent,
    Quarantined,
    QueueDiagnostics,
    QueuedOperation,
    RunningMicroOp,
    WorkerPool,
)
from idl.metadata import Metadata
from idl.task import Completed, Failed, Pending, Subtask, Task
from idl.vbd import Local, Vbd, VbdRecord, VbdState
from idl.vif import Bridge, Vif, VifRecord, VifState
from idl.vm import Attention, Difference, PowerState, Vm, VmMetrics, VmRecord, VmState
from xenopsd.cli import main
from xenopsd.cli.advice import next_step
from xenopsd.cli.app import ELSEWHERE
from xenopsd.cli.failure import EXIT_CODES, About

WEB = VmRecord(
    id="web",
    config=Vm(id="web", name="The web", vcpu_max=2),
    state=VmState(power_state=PowerState.RUNNING, domain_ids=["7"], reason="started"),
    pending={"vcpus": Difference(running=1, configured=2)},
)
DAMAGED = VmRecord(
    id="bad",
    config=None,
    state=VmState(
        power_state=PowerState.HALTED, attention=Attention(reason="/state/bad is torn", since=0.0)
    ),
)
START_WEB = About(command="start", vm="web")
OPERATIONS = ["start", "shutdown", "reboot", "pause", "unpause", "suspend", "resume", "destroy"]


def task(state: Any = None, id: str = "t1") -> Task:
    return Task(
        id=id,
        vm="web",
        operation="VM.start",
        debug_info="",
        created=0.0,
        object="web",
        state=state or Completed(duration=0.5),
        subtasks=[Subtask(name="vm_create", object="web", state="done", duration=0.25)],
    )


def failed(error: errors.XenopsError) -> Task:
    return task(Failed(duration=0.1, error=error.error_object()))


def test_what_other_tools_call_it_is_told(xenops):
    found = xenops("stop", "web")
    assert found.exit_code == 2
    assert "No such command 'stop'. Here it is 'xenops shutdown'." in found.output


def test_no_command_of_ours_is_taken_for_another_tools():
    assert not ELSEWHERE.keys() & main.commands.keys()
    assert set(ELSEWHERE.values()) <= main.commands.keys()


def test_list(daemon, xenops):
    daemon.answers["VM.list"] = [WEB, DAMAGED]
    found = xenops("list")
    assert found.exit_code == 0
    assert [line.split() for line in found.stdout.splitlines()] == [
        ["VM", "STATE", "GUEST", "VCPUS", "MEMORY", "OPERATION"],
        ["bad", "halted", "(attention)", "-", "-", "-", "-"],
        ["web", "running", "hvm", "2", "256", "MiB", "-"],
    ]


def test_list_wide_tells_the_reason_of_attention(daemon, xenops):
    daemon.answers |= {"VM.list": [DAMAGED], "VM.metrics": []}
    assert "/state/bad is torn" in xenops("list", "-o", "wide").stdout


def test_list_asks_once_more_for_what_vms_use_where_that_is_shown(daemon, xenops):
    used = VmMetrics(id="web", observed_at=2.0, cpu_seconds=0.5, memory=1 << 20)
    began = msgspec.structs.replace(WEB.state, last_start_time=1.0)
    web = msgspec.structs.replace(WEB, state=began)
    daemon.answers |= {"VM.list": [web, DAMAGED], "VM.metrics": [used]}
    lines = xenops("list", "-c", "vm,cpu,used").stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["VM", "CPU", "USED"],
        ["bad", "-", "-"],
        ["web", "50.0%", "1", "MiB"],
    ]
    assert xenops("list").exit_code == 0
    assert daemon.methods() == ["VM.list", "VM.metrics", "VM.list"]


def test_list_names(daemon, xenops):
    daemon.answers["VM.list"] = [WEB, DAMAGED]
    assert xenops("list", "-o", "name").stdout == "bad\nweb\n"


def test_show(daemon, xenops):
    daemon.answers |= {
        "VM.stat": WEB,
        "VBD.list": [
            VbdRecord(
                id="web/root",
                config=Vbd(id="web/root", backend=Local(path="/d")),
                state=VbdState(plugged=True),
            )
        ],
        "VIF.list": [
            VifRecord(
                id="web/lan",
                config=Vif(id="web/lan", backend=Bridge(name="br0")),
                state=VifState(),
            )
        ],
        "PCI.list": [],
    }
    lines = [" ".join(line.split()) for line in xenops("show", "web").stdout.splitlines()]
    assert "state running" in lines
    assert "vbd web/root plugged /d" in lines
    assert "vif web/lan unplugged br0" in lines
    assert "pending vcpus 1 now, 2 at the next start" in lines
    found = json.loads(xenops("show", "web", "-o", "json").stdout)
    assert (found["vm"]["id"], len(found["vbds"]), found["pcis"]) == ("web", 1, [])


def test_show_asks_a_damaged_record_for_no_devices(daemon, xenops):
    daemon.answers["VM.stat"] = DAMAGED
    assert "/state/bad is torn" in xenops("show", "bad").stdout
    assert daemon.methods() == ["VM.stat"]


def test_add_from_a_file(daemon, xenops, tmp_path):
    daemon.answers |= {"VM.exists": False, "VM.import_metadata": "web"}
    file = tmp_path / "web.toml"
    file.write_text("id = 'web'\n[[vifs]]\nid = 'lan'\nbackend = {type='bridge', name='br0'}")
    assert xenops("add", str(file)).stdout == "web\n"
    sent = daemon.seen[-1][1]["metadata"]
    assert (sent["vm"]["id"], sent["vifs"][0]["id"]) == ("web", "web/lan")


def test_add_from_stdin(daemon, xenops):
    daemon.answers |= {"VM.exists": False, "VM.import_metadata": "web"}
    assert xenops("add", "-", input="id = 'web'").exit_code == 0


def test_add_from_options(daemon, xenops):
    daemon.answers |= {"VM.exists": False, "VM.import_metadata": "web"}
    args = "--id web --memory 2G --vcpus 2 --guest container --disk /b,overlay --nic br0"
    assert xenops("add", *args.split()).exit_code == 0
    sent = daemon.seen[-1][1]["metadata"]
    assert (sent["vm"]["memory_static_max"], sent["vm"]["vcpu_max"]) == (2 << 30, 2)
    assert sent["vm"]["guest"]["type"] == "container"
    assert sent["vbds"][0]["backend"]["overlay"] is True


def test_add_refuses_what_exists_unless_it_may_replace(daemon, xenops):
    daemon.answers |= {"VM.exists": True, "VM.import_metadata": "web"}
    found = xenops("add", "--id", "web")
    assert (found.exit_code, "exists already" in found.stderr) == (1, True)
    assert xenops("add", "--id", "web", "--replace").exit_code == 0
    assert daemon.methods() == ["VM.exists", "VM.import_metadata"]


@pytest.mark.parametrize(
    "args",
    [
        pytest.param([], id="nothing"),
        pytest.param(["-", "--id", "web"], id="a file and options"),
        pytest.param(["--id", "web", "--memory", "lots"], id="no size"),
        pytest.param(["--id", ".web"], id="no id"),
    ],
)
def test_add_explains_its_usage(daemon, xenops, args: list[str]):
    found = xenops("add", *args, input="")
    assert (found.exit_code, daemon.seen) == (2, [])
    assert "Error: " in found.stderr


def test_remove(daemon, xenops):
    daemon.answers["VM.remove"] = None
    assert xenops("remove", "web", "--keep-layers").exit_code == 0
    assert daemon.seen == [("VM.remove", {"id": "web", "keep_layers": True})]


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_waits_for_its_end_in_silence(daemon, xenops, name: str):
    daemon.answers |= {f"VM.{name}": "t1", "TASK.wait": task()}
    found = xenops(name, "web")
    assert (found.exit_code, found.stdout, found.stderr) == (0, "", "")
    assert daemon.seen[0] == (f"VM.{name}", {"id": "web"})
    assert daemon.methods() == [f"VM.{name}", "TASK.wait"]


@pytest.mark.parametrize(
    ("args", "params"),
    [
        pytest.param("start web --paused", {"paused": True}, id="start paused"),
        pytest.param(
            "shutdown web --timeout 5 --force", {"timeout": 5.0, "force": True}, id="shutdown"
        ),
        pytest.param("reboot web --timeout 5", {"timeout": 5.0}, id="reboot"),
        pytest.param("suspend web --image /i", {"image": "/i"}, id="suspend"),
        pytest.param(
            "resume web --image /i --paused", {"image": "/i", "paused": True}, id="resume"
        ),
    ],
)
def test_options_become_parameters(daemon, xenops, args: str, params: dict[str, Any]):
    method = f"VM.{args.split()[0]}"
    daemon.answers[method] = "t1"
    assert xenops(*args.split(), "--no-wait").stdout == "t1\n"
    assert daemon.seen == [(method, {"id": "web", **params})]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        pytest.param(errors.DoesNotExist(kind="VM", id="web"), 3, id="not found"),
        pytest.param(errors.TooManyRequests(limit=1, queued=1), 4, id="busy"),
        pytest.param(errors.PermissionDenied(method="VM.start"), 1, id="refused"),
        pytest.param(errors.InvalidParams(reason="id: bad"), 2, id="usage"),
    ],
)
def test_an_error_of_the_call_is_a_sentence_and_a_code(daemon, xenops, error, code: int):
    daemon.answers["VM.start"] = error
    found = xenops("start", "web")
    assert (found.exit_code, found.stderr) == (
        code,
        f"xenops: {error}\n  next: {next_step(error, START_WEB)}\n",
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [
        pytest.param(
            errors.BadPowerState(id="web", actual="running", expected=["halted"]), 1, id="failed"
        ),
        pytest.param(errors.FailedToShutdown(id="web", timeout=5.0), 4, id="timed out"),
    ],
)
def test_an_error_of_the_task_is_a_sentence_and_a_code(daemon, xenops, error, code: int):
    daemon.answers |= {"VM.start": "t1", "TASK.wait": failed(error)}
    found = xenops("start", "web")
    assert (found.exit_code, found.stderr) == (
        code,
        f"xenops: {error}\n  next: {next_step(error, START_WEB)}\n",
    )


def test_waiting_has_a_limit_and_the_task_goes_on(daemon, xenops):
    daemon.answers |= {"VM.start": "t1", "TASK.wait": task(Pending())}
    found = xenops("start", "web", "--wait-for", "0")
    assert found.exit_code == 4
    assert "Task t1 (VM.start) took longer than 0 s" in found.stderr
    assert "TASK.cancel" not in daemon.methods()


def interrupt(daemon, times: int) -> None:
    """Ctrl-C at each of the first waits, when the command waits for the answer."""
    left = iter(range(times))

    def answer(params: dict[str, Any]) -> Task:
        if next(left, None) is None:
            return failed(errors.Cancelled(task="t1"))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return task(Pending())

    daemon.answers |= {"VM.start": "t1", "TASK.wait": answer, "TASK.cancel": None}


def test_an_interrupt_cancels_and_says_so(daemon, xenops):
    interrupt(daemon, 1)
    found = xenops("start", "web")
    assert found.exit_code == 1
    assert "Cancelling task t1" in found.stderr
    assert "Task t1 was cancelled." in found.stderr
    assert daemon.methods().count("TASK.cancel") == 1


def test_a_second_interrupt_leaves_the_task_to_itself(daemon, xenops):
    interrupt(daemon, 2)
    found = xenops("start", "web")
    assert (found.exit_code, found.stdout) == (4, "t1\n")
    assert "xenops task wait t1" in found.stderr
    assert daemon.methods().count("TASK.cancel") == 1


def test_task_list_leaves_out_what_has_ended(daemon, xenops):
    daemon.answers["TASK.list"] = [task(), task(Pending(progress=0.5), id="t2")]
    assert xenops("task", "list", "-o", "name").stdout == "t2\n"
    assert "50%" in xenops("task", "list").stdout
    assert xenops("task", "list", "--all", "-o", "name").stdout == "t1\nt2\n"


def test_task_show_has_the_micro_ops(daemon, xenops):
    daemon.answers["TASK.stat"] = task()
    lines = [" ".join(line.split()) for line in xenops("task", "show", "t1").stdout.splitlines()]
    assert "state completed" in lines
    assert "vm_create web done 0.250 s" in lines
    assert json.loads(xenops("task", "show", "t1", "-o", "json").stdout)["id"] == "t1"


def test_task_cancel_and_wait(daemon, xenops):
    daemon.answers |= {"TASK.cancel": None, "TASK.wait": task()}
    assert xenops("task", "cancel", "t1").exit_code == 0
    assert xenops("task", "wait", "t1").exit_code == 0
    assert daemon.methods() == ["TASK.cancel", "TASK.wait"]


def test_pool(daemon, xenops):
    daemon.answers |= {
        "HOST.get_worker_pool": WorkerPool(size=4, busy=1, idle=3, parked=0, queued=2),
        "HOST.set_worker_pool_size": None,
    }
    assert xenops("pool", "show").stdout.split()[:4] == ["size", "4", "busy", "1"]
    assert xenops("pool", "set", "8").exit_code == 0
    assert daemon.seen[-1] == ("HOST.set_worker_pool_size", {"size": 8})


def test_diagnostics(daemon, xenops):
    running = RunningMicroOp(
        name="vm_build", object="web", holder="worker-1", age=2.0, deadline=10.0
    )
    daemon.answers["HOST.get_diagnostics"] = Diagnostics(
        queues=[
            QueueDiagnostics(
                vm="web",
                state="leased",
                operations=[QueuedOperation(name="VM.start", task="t1", state="running")],
                running=running,
                deadline=None,
            )
        ],
        workers={},
        tasks={},
        updates={},
        journal=[
            OpenIntent(
                vm="web", task="t1", operation="VM.start", direction="on", done=1, intended="x"
            )
        ],
        quarantined=[Quarantined(vm=None, path="/state/x", reason="torn")],
        versions={},
    )
    found = xenops("diagnostics").stdout
    assert "vm_build web" in found
    assert "worker-1" in found
    assert "open intent: VM.start of web, x under way" in found
    assert "set aside: /state/x (torn)" in found
    assert json.loads(xenops("diagnostics", "-o", "json").stdout)["versions"] == {}


def test_call(daemon, xenops):
    daemon.answers["VM.stat"] = {"id": "web"}
    assert json.loads(xenops("call", "VM.stat", '{"id": "web"}').stdout) == {"id": "web"}
    assert xenops("call", "VM.stat", "-", input='{"id": "a"}').exit_code == 0
    assert [params for _, params in daemon.seen] == [{"id": "web"}, {"id": "a"}]


@pytest.mark.parametrize("params", ["{", "[1]"])
def test_call_explains_its_usage(xenops, params: str):
    found = xenops("call", "VM.stat", params)
    assert (found.exit_code, "JSON" in found.stderr) == (2, True)


def test_events_name_what_changed_and_what_is_gone(daemon, xenops):
    batch = {
        "updates": [
            {"type": "vm", "id": "web"},
            {"type": "vif", "id": "web/lan", "removed": True},
        ],
        "barriers": [],
        "next": "n",
        "resync": True,
    }
    daemon.answers |= {"UPDATES.last_id": "token", "UPDATES.get": batch}
    found = xenops("events", "--no-follow")
    lines = [line.split() for line in found.stdout.splitlines()]
    assert lines[0][0] == "resync:"
    assert [line[1:] for line in lines[1:]] == [["vm", "web"], ["vif", "web/lan", "removed"]]
    assert found.stderr == "go on with: xenops events --since n\n"
    assert daemon.seen[-1] == ("UPDATES.get", {"since": "token", "timeout": 0})
    found = xenops("events", "--no-follow", "--all", "-o", "json")
    assert json.loads(found.stdout)["next"] == "n"
    assert daemon.seen[-1] == ("UPDATES.get", {"timeout": 0})


def test_an_unreachable_daemon_is_told_with_the_next_step(tmp_path):
    found = CliRunner().invoke(main, ["--socket", str(tmp_path / "none.sock"), "list"])
    assert found.exit_code == 5
    assert str(tmp_path) in found.stderr
    assert "start xenopsd" in found.stderr
    assert "Traceback" not in found.stderr


def test_the_socket_may_come_from_the_environment(daemon):
    daemon.answers["VM.list"] = []
    found = CliRunner().invoke(main, ["list"], env={"XENOPS_SOCKET": str(daemon.path)})
    assert found.exit_code == 0


def test_the_socket_may_be_an_instances(daemon):
    daemon.answers["VM.list"] = []
    environ = {"XENOPSD_RUN_DIR": str(daemon.path.parent)}
    assert CliRunner().invoke(main, ["--instance", "default", "list"], env=environ).exit_code == 0
    assert CliRunner().invoke(main, ["--instance", "blue", "list"], env=environ).exit_code == 5


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
        else:
            found.append((*path, name))
    return found


@pytest.mark.parametrize("path", [pytest.param(p, id=" ".join(p)) for p in commands(main)])
def test_every_command_shows_examples(path: tuple[str, ...]):
    text = CliRunner().invoke(main, [*path, "--help"]).stdout
    assert f"Examples:\n    xenops {' '.join(path)}" in text


def test_the_help_tells_the_exit_codes():
    text = CliRunner().invoke(main, ["--help"]).stdout
    for code, meaning in EXIT_CODES.items():
        assert f"  {code}  {meaning}" in text


# What goes wrong on this side


def test_what_no_daemon_could_be_told_is_refused(daemon, xenops):
    found = xenops("show", "\udcff")
    assert (found.exit_code, daemon.seen) == (2, [])
    assert "is no text" in found.stderr


@pytest.mark.parametrize(
    "args",
    [
        pytest.param(("UPDATES.subscribe",), id="many answers"),
        pytest.param(("VM.shutdown", '{"id": "web", "timeout": NaN}'), id="no number"),
        pytest.param(("VM.list", "[" * 100_000), id="nested too deeply"),
    ],
)
def test_a_call_that_cannot_be_made_is_wrong_usage(daemon, xenops, args: tuple[str, ...]):
    found = xenops("call", *args)
    assert (found.exit_code, daemon.seen) == (2, [])
    assert "Error: " in found.stderr


@pytest.mark.parametrize("content", [b"\xff\xfe", b'{"a":' * 100_000])
def test_a_file_that_is_no_vm_is_wrong_usage(daemon, xenops, tmp_path, content: bytes):
    file = tmp_path / "web.json"
    file.write_bytes(content)
    found = xenops("add", str(file))
    assert (found.exit_code, daemon.seen) == (2, [])
    assert "web.json: " in found.stderr


def test_a_file_that_cannot_be_written_is_named(daemon, xenops, tmp_path):
    daemon.answers["VM.export_metadata"] = Metadata(vm=Vm(id="web"))
    found = xenops("export", "web", str(tmp_path))
    assert found.exit_code == 1
    assert found.stderr.startswith("xenops: ")
    assert str(tmp_path) in found.stderr
    found = xenops("diag", "bundle", str(tmp_path / "none" / "x.tar.gz"))
    assert (found.exit_code, "No such file" in found.stderr) == (1, True)


def test_an_interrupted_call_may_go_on_and_says_so(daemon, xenops):
    def answer(_params: dict[str, Any]) -> str:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return "t1"

    daemon.answers["VM.start"] = answer
    found = xenops("start", "web")
    assert found.exit_code == 4
    assert found.stderr == (
        "xenops: Interrupted; what was asked for may go on.\n  next: xenops task list\n"
    )


def test_an_edit_that_the_daemon_refuses_is_not_lost(daemon, xenops, monkeypatch):
    shown: list[str] = []

    def edit(text: str, **_options: str) -> str:
        shown.append(text)
        return text.replace("name: The web", "name: Mine")

    monkeypatch.setattr(click, "edit", edit)
    answers = iter([errors.TooManyRequests(limit=1, queued=1), WEB.config])
    daemon.answers |= {"VM.stat": WEB, "VM.set": lambda _params: next(answers)}
    found = xenops("edit", "web", input="y\n")
    assert found.exit_code == 0
    assert "name: Mine" in shown[1]
    assert daemon.methods().count("VM.set") == 2
