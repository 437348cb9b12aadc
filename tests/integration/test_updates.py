"""Updates: "look at this object again", to the slow, the many and the ones that come back."""

import json
import random
import select
import socket
import threading
import time

import pytest
from rigs.daemon import eventually
from rigs.lab import disk, plain, raises

from idl.client import Client
from idl.errors import DoesNotExist, InvalidRequest, XenopsError
from idl.link import ConnectionFailed
from idl.pci import Pci
from idl.update import Update
from idl.vbd import Local, Vbd
from idl.vif import Bridge, Vif
from idl.vm import Vm


def named(batch):
    return {(u.type, u.id) for u in batch.updates}


def gone(batch):
    return {(u.type, u.id) for u in batch.updates if u.removed}


def objects(vm, disks=1, nics=1):
    return {
        ("vm", vm),
        *(("vbd", f"{vm}/disk{n}") for n in range(disks)),
        *(("vif", f"{vm}/nic{n}") for n in range(nics)),
    }


def drained(lab):
    """A token after which nothing is to be told, for nothing goes on."""
    token = lab.client.updates.last_id()
    while (batch := lab.client.updates.get(token, timeout=0.1)).updates:
        token = batch.next
    return batch.next


def told(lab, token, wanted):
    """All that is told from a token on, until these objects were named; and the next token."""
    seen = {}
    until = time.monotonic() + 30
    while not wanted <= set(seen):
        assert time.monotonic() < until, f"not told of {wanted - set(seen)}"
        batch = lab.client.updates.get(token, timeout=10)
        assert not batch.resync
        seen |= {(u.type, u.id): u for u in batch.updates}
        token = batch.next
    return seen, token


# From the beginning, and from a token


def test_from_the_beginning_every_object_is_named_at_once(lab):
    id = lab.vm()
    lab.client.pci.add(Pci(id=f"{id}/p", address="0000:00:01.0"))
    task = lab.run(lab.client.vm.start(id)).id
    batch = lab.client.updates.get(timeout=3600)
    assert named(batch) >= {*objects(id), ("pci", f"{id}/p"), ("task", task), ("host", "host")}
    assert not gone(batch)
    assert not batch.resync


def test_nothing_new_is_told_when_the_time_is_over(lab):
    token = drained(lab)
    begin = time.monotonic()
    batch = lab.client.updates.get(token, timeout=0.3)
    assert time.monotonic() - begin >= 0.25
    assert (batch.updates, batch.barriers, batch.resync) == ([], [], False)
    assert lab.client.updates.get(batch.next, timeout=0).updates == []


def test_the_token_of_now_is_after_everything(lab):
    lab.vm()
    token = lab.client.updates.last_id()
    other = lab.vm(disks=0, nics=0)
    assert ("vm", other) in named(lab.client.updates.get(token, timeout=10))


def test_a_start_is_told_of_every_object_that_it_changes(lab):
    id = lab.vm()
    token = drained(lab)
    task = lab.client.vm.start(id)
    told(lab, token, {*objects(id), ("task", task)})


@pytest.mark.parametrize(
    "change",
    [
        lambda c, vm: c.vm.set(vm, {"name": "new"}),
        lambda c, vm: c.run(c.vm.set_xsdata(vm, {"a": "b"})),
        lambda c, vm: c.run(c.vm.pause(vm)),
        lambda c, vm: c.debug.trigger("crash", [vm]),
        lambda c, vm: c.debug.trigger("uncooperative-balloon", [vm, "true"]),
    ],
    ids=["set", "set_xsdata", "pause", "crash", "a guest's own doing"],
)
def test_a_change_of_a_vm_is_told(lab, change):
    id = lab.running()
    token = drained(lab)
    change(lab.client, id)
    told(lab, token, {("vm", id)})


def test_a_change_of_a_device_is_told(lab):
    id = lab.running()
    token = drained(lab)
    lab.run(lab.client.vif.set_carrier(f"{id}/nic0", False))
    _, token = told(lab, token, {("vif", f"{id}/nic0")})
    lab.run(lab.client.vbd.unplug(f"{id}/disk0"))
    told(lab, token, {("vbd", f"{id}/disk0")})


def test_a_device_of_a_halted_vm_that_was_reconfigured_is_told(lab):
    id = lab.vm()
    token = drained(lab)
    lab.run(lab.client.vif.set_carrier(f"{id}/nic0", carrier=False))
    told(lab, token, {("vif", f"{id}/nic0")})


def test_a_device_that_could_not_be_plugged_is_told_when_nothing_is_done_about_it(lab):
    id = lab.running()
    vbd = f"{id}/late"
    lab.client.vbd.add(disk(id, "late", Local(path="/images/late")))
    lab.trigger("hang", "vbd_plug", 1)
    task = lab.client.vbd.plug(vbd)
    lab.began(task, "vbd_plug")
    token = drained(lab)
    assert lab.client.vbd.stat(vbd).state.active
    lab.client.task.cancel(task)
    lab.end(task)
    told(lab, token, {("vbd", vbd)})
    assert not lab.client.vbd.stat(vbd).state.active


def test_a_wait_is_answered_when_something_changes(lab):
    id = lab.vm()
    token = drained(lab)
    batches = []
    thread = threading.Thread(
        target=lambda: batches.append(lab.client.updates.get(token, timeout=60))
    )
    thread.start()
    eventually(lambda: lab.client.host.get_diagnostics().updates["waiters"] > 0)
    lab.client.vm.set(id, {"name": "new"})
    thread.join(30)
    assert ("vm", id) in named(batches[0])


def test_each_step_of_a_vm_is_told(lab):
    """A view that is read again only when told shows where a long operation is."""
    id = lab.vm()
    token = lab.client.updates.last_id()
    # Read in the first step, it is another thing in the second.
    lab.trigger("set-latency", "vm_create", 0.5)
    lab.trigger("hang", "vm_build", 1)
    start = lab.client.vm.start(id)
    seen = None
    until = time.monotonic() + 9
    while seen != "vm_build":
        assert time.monotonic() < until, f"what it was told of shows {seen}"
        batch = lab.client.updates.get(token, timeout=1)
        token = batch.next
        if ("vm", id) in named(batch):
            operation = lab.stat(id).state.operation
            seen = operation.micro_op if operation else None
    lab.client.task.cancel(start)
    lab.end(start)


def test_a_longer_queue_of_a_vm_is_told(lab):
    id = lab.vm()
    first = lab.client.vm.delay(id, 600)
    lab.began(first, "vm_delay")
    token = drained(lab)
    second = lab.client.vm.delay(id, 0)
    told(lab, token, {("vm", id)})
    assert lab.stat(id).state.queue_depth == 2
    lab.client.task.cancel(first)
    lab.run(second)


def test_many_changes_of_one_object_are_one_update(lab):
    id = lab.vm(disks=0, nics=0)
    token = drained(lab)
    for n in range(50):
        lab.client.vm.set(id, {"name": str(n)})
    batch = lab.client.updates.get(token, timeout=10)
    assert [u for u in batch.updates if u.id == id] == [Update(type="vm", id=id)]


def test_a_refreshed_vm_is_told_again_with_its_devices(lab):
    id, other = lab.vm(disks=2), lab.vm()
    token = drained(lab)
    lab.client.updates.refresh_vm(id)
    batch = lab.client.updates.get(token, timeout=10)
    assert named(batch) == objects(id, disks=2)
    assert other
    assert raises(DoesNotExist, lambda: lab.client.updates.refresh_vm("no-such-vm")).kind == "VM"


# Removal


@pytest.mark.parametrize("kind", ["vbd", "vif", "pci"])
def test_a_removed_device_is_told_as_removed(lab, kind):
    id = lab.vm()
    lab.client.pci.add(Pci(id=f"{id}/gpu0", address="0000:00:01.0"))
    device = f"{id}/{ {'vbd': 'disk0', 'vif': 'nic0', 'pci': 'gpu0'}[kind] }"
    token = drained(lab)
    getattr(lab.client, kind).remove(device)
    # What its removal does about it is told before that it is gone.
    told_last = None
    while told_last is None or not told_last.removed:
        seen, token = told(lab, token, {(kind, device)})
        told_last = seen[kind, device]


def test_a_removed_vm_is_told_as_removed_with_its_devices(lab):
    id = lab.vm(disks=2, nics=2)
    token = drained(lab)
    lab.client.vm.remove(id)
    batch = lab.client.updates.get(token, timeout=10)
    assert gone(batch) == objects(id, disks=2, nics=2)
    assert not objects(id) & named(lab.client.updates.get())


def test_what_comes_back_is_not_told_as_removed(lab):
    id = lab.vm()
    token = drained(lab)
    lab.client.vm.remove(id)
    lab.vm(id=id)
    batch = lab.client.updates.get(token, timeout=10)
    assert objects(id) <= named(batch)
    assert not objects(id) & gone(batch)


def test_a_device_that_an_import_drops_is_told_as_removed(lab):
    id = lab.vm(disks=2)
    metadata = plain(lab.client.vm.export_metadata(id))
    del metadata["vbds"][1]
    token = drained(lab)
    lab.client.call("VM.import_metadata", metadata={**metadata, "extra": None})
    assert ("vbd", f"{id}/disk1") in gone(lab.client.updates.get(token, timeout=10))


def test_a_destroyed_task_is_told_as_removed(lab):
    task = lab.run(lab.client.vm.start(lab.vm())).id
    token = drained(lab)
    lab.client.task.destroy(task)
    assert gone(lab.client.updates.get(token, timeout=10)) == {("task", task)}


# Tokens that mean nothing here


def future(token):
    """A token of this life that was not handed out yet."""
    epoch, _, number = token.rpartition(".")
    return f"{epoch}.{int(number) + 10**6}"


STRANGE = {
    "garbage": lambda _t: "garbage",
    "empty": lambda _t: "",
    "of another life": lambda t: "0123456789ab." + t.rpartition(".")[2],
    "of the future": future,
    "cut": lambda t: t[:-1] + "x",
    "very long": lambda _t: "x" * 10000,
    "not text but a number": lambda t: t.rpartition(".")[2],
    "unicode": lambda _t: "\u0663\U0001f600\x00",
}


@pytest.mark.parametrize("kind", STRANGE)
def test_a_token_that_means_nothing_is_answered_with_everything(lab, kind):
    id = lab.vm()
    token = STRANGE[kind](lab.client.updates.last_id())
    begin = time.monotonic()
    batch = lab.client.updates.get(token, timeout=3600)
    assert time.monotonic() - begin < 30
    assert batch.resync
    assert named(batch) >= {*objects(id), ("host", "host")}
    again = lab.client.updates.get(batch.next, timeout=0)
    assert not again.resync
    assert not objects(id) & named(again)


def test_a_token_of_an_earlier_life_is_answered_with_everything(start):
    lab = start()
    kept, removed = lab.vm(), lab.vm()
    lab.run(lab.client.vm.start(kept))
    token = drained(lab)
    lab.client.vm.remove(removed)
    lab.restart()
    batch = lab.client.updates.get(token, timeout=3600)
    assert batch.resync
    assert objects(kept) <= named(batch)
    assert not objects(removed) & named(batch)


# Barriers


def test_a_barrier_is_answered_to_every_older_token_until_it_is_removed(lab):
    id = lab.vm(disks=0, nics=0)
    token = drained(lab)
    lab.client.updates.inject_barrier(id, 7001)
    for _ in range(2):
        batch = lab.client.updates.get(token, timeout=3600)
        assert [b.id for b in batch.barriers] == [7001]
        assert batch.updates == []
    assert 7001 in [b.id for b in lab.client.updates.get().barriers]
    after = lab.client.updates.get(batch.next, timeout=0)
    assert after.barriers == []
    lab.client.updates.remove_barrier(7001)
    assert lab.client.updates.get(token, timeout=0).barriers == []
    assert 7001 not in [b.id for b in lab.client.updates.get().barriers]


def test_barriers_come_in_the_order_of_their_injection(lab):
    id = lab.vm()
    token = drained(lab)
    for barrier in (7013, 7011, 7012):
        lab.client.updates.inject_barrier(id, barrier)
    batch = lab.client.updates.get(token, timeout=10)
    assert [b.id for b in batch.barriers] == [7013, 7011, 7012]
    for barrier in (7011, 7012, 7013):
        lab.client.updates.remove_barrier(barrier)


def test_a_barrier_names_what_of_its_vm_was_pending(lab):
    id, other = lab.vm(), lab.vm()
    token = drained(lab)
    lab.client.vm.set(id, {"name": "new"})
    lab.client.vm.set(other, {"name": "new"})
    lab.client.vif.remove(f"{id}/nic0")
    lab.client.updates.inject_barrier(id, 7020)
    lab.client.vbd.remove(f"{id}/disk0")
    (barrier,) = lab.client.updates.get(token, timeout=10).barriers
    names = {(u.type, u.id) for u in barrier.updates}
    assert {("vm", id), ("vif", f"{id}/nic0")} <= names
    assert ("vm", other) not in names
    lab.client.updates.remove_barrier(7020)


def test_a_barrier_wakes_who_waits(lab):
    id = lab.vm()
    token = drained(lab)
    batches = []
    thread = threading.Thread(
        target=lambda: batches.append(lab.client.updates.get(token, timeout=60))
    )
    thread.start()
    eventually(lambda: lab.client.host.get_diagnostics().updates["waiters"] > 0)
    lab.client.updates.inject_barrier(id, 7030)
    thread.join(30)
    assert [b.id for b in batches[0].barriers] == [7030]
    lab.client.updates.remove_barrier(7030)


def test_a_barrier_of_the_same_id_replaces_the_earlier_one(lab):
    id = lab.vm()
    lab.client.updates.inject_barrier(id, 7040)
    token = drained(lab)
    lab.client.updates.inject_barrier(id, 7040)
    assert [b.id for b in lab.client.updates.get(token, timeout=10).barriers] == [7040]
    lab.client.updates.remove_barrier(7040)


def test_barriers_that_are_not_there(lab):
    error = raises(DoesNotExist, lambda: lab.client.updates.remove_barrier(7099))
    assert error.id == "7099"
    error = raises(DoesNotExist, lambda: lab.client.updates.inject_barrier("no-such-vm", 1))
    assert (error.kind, error.id) == ("VM", "no-such-vm")


# Order


def test_the_end_of_a_task_is_told_before_what_the_next_operation_does(lab):
    id = lab.vm(disks=0, nics=0)
    for _ in range(10):
        token = drained(lab)
        first, second = lab.client.vm.start(id), lab.client.vm.shutdown(id, timeout=30)
        view = {}
        while second not in view or not view[second].ended:
            batch = lab.client.updates.get(token, timeout=30)
            token = batch.next
            view |= {u.id: lab.client.task.stat(u.id) for u in batch.updates if u.type == "task"}
            if second in view and view[second].subtasks:
                assert view[first].ended


# Subscriptions


def test_a_subscription_tells_what_exists_and_then_what_changes(lab):
    id = lab.vm()
    with lab.client.subscribe(silence=30) as subscription:
        assert subscription.token
        assert objects(id) <= named(next(subscription))
        lab.client.vm.set(id, {"name": "new"})
        assert ("vm", id) in named(next(subscription))


def test_a_subscription_continues_from_a_token(lab):
    id, other = lab.vm(), lab.vm()
    token = drained(lab)
    lab.client.vm.set(id, {"name": "new"})
    with lab.client.subscribe(token, silence=30) as subscription:
        assert subscription.token == token
        batch = next(subscription)
        assert ("vm", id) in named(batch)
        assert ("vm", other) not in named(batch)
        lab.client.vm.set(other, {"name": "new"})
        assert ("vm", other) in named(lab.client.updates.get(batch.next, timeout=10))


def test_a_subscription_with_a_strange_token_is_told_everything(lab):
    id = lab.vm()
    with lab.client.subscribe("garbage", silence=30) as subscription:
        batch = next(subscription)
        assert batch.resync
        assert objects(id) <= named(batch)


def test_a_subscription_shares_its_connection_with_calls(lab):
    id = lab.vm()
    with socket.socket(socket.AF_UNIX) as sock, sock.makefile("rwb") as stream:
        sock.settimeout(30)
        sock.connect(str(lab.daemon.socket))
        for request in (
            {"jsonrpc": "2.0", "id": 1, "method": "UPDATES.subscribe"},
            {"jsonrpc": "2.0", "id": 2, "method": "VM.set", "params": [id, {"name": "n"}]},
        ):
            stream.write(json.dumps(request).encode() + b"\n")
        stream.flush()
        answers, notified = {}, set()
        while len(answers) < 2 or ("vm", id) not in notified:
            message = json.loads(stream.readline())
            if "method" in message:
                assert message["method"] == "updates"
                assert set(message["params"]) == {"updates", "barriers", "next", "resync"}
                notified |= {(u["type"], u["id"]) for u in message["params"]["updates"]}
            else:
                answers[message["id"]] = message["result"]
        assert answers[2]["name"] == "n"


def test_a_subscription_over_http_is_an_invalid_request(lab):
    body = b'{"jsonrpc":"2.0","id":1,"method":"UPDATES.subscribe"}'
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(lab.daemon.socket))
        head = f"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert error["code"] == InvalidRequest.code


def test_a_slow_subscriber_ends_with_the_final_state(lab):
    ids = [lab.vm(disks=0, nics=0) for _ in range(30)]
    with lab.client.subscribe(silence=30) as subscription:
        for n in range(40):
            for id in ids:
                lab.client.vm.set(id, {"name": f"{n}"})
        lab.client.vm.remove(ids[0])
        # All this time nothing was read.
        view, until = {}, lab.client.updates.last_id()
        for batch in subscription:
            for update in batch.updates:
                if update.type == "vm" and update.id in ids:
                    view[update.id] = update.removed
            if batch.next == until or lab.client.updates.get(batch.next, timeout=0).updates == []:
                break
    assert view == {id: id == ids[0] for id in ids}


# Many


def test_a_thousand_polls_on_one_connection_are_answered_by_one_change(lab):
    id = lab.vm(disks=0, nics=0)
    token = drained(lab)
    with socket.socket(socket.AF_UNIX) as sock, sock.makefile("rb") as stream:
        sock.settimeout(60)
        sock.connect(str(lab.daemon.socket))
        for n in range(1000):
            request = {"id": n, "method": "UPDATES.get", "params": [token, 60], "jsonrpc": "2.0"}
            sock.sendall(json.dumps(request).encode() + b"\n")
        eventually(lambda: lab.client.host.get_diagnostics().updates["waiters"] >= 1000)
        lab.client.vm.set(id, {"name": "new"})
        answers = [json.loads(stream.readline()) for _ in range(1000)]
    assert {a["id"] for a in answers} == set(range(1000))
    for answer in answers:
        assert {"type": "vm", "id": id} in answer["result"]["updates"]
    eventually(lambda: lab.client.host.get_diagnostics().updates["waiters"] == 0)


def test_a_thousand_connections_poll_and_leave_nothing_behind(lab):
    id = lab.vm(disks=0, nics=0)
    token = drained(lab)
    request = {"id": 1, "method": "UPDATES.get", "params": [token, 600], "jsonrpc": "2.0"}
    line = json.dumps(request).encode() + b"\n"
    sockets = []
    try:
        for _ in range(1000):
            sock = socket.socket(socket.AF_UNIX)
            sockets.append(sock)
            sock.settimeout(60)
            sock.connect(str(lab.daemon.socket))
            sock.sendall(line)
        eventually(lambda: lab.client.host.get_diagnostics().updates["waiters"] >= 1000)
        for sock in sockets[:300]:
            sock.close()
        eventually(lambda: lab.client.host.get_diagnostics().updates["waiters"] <= 700)
        begin = time.monotonic()
        assert lab.stat(id).id == id
        assert time.monotonic() - begin < 10
        lab.client.vm.set(id, {"name": "new"})
        for sock in sockets[300:]:
            answer = sock.recv(65536)
            while not answer.endswith(b"\n"):
                answer += sock.recv(65536)
            assert {"type": "vm", "id": id} in json.loads(answer)["result"]["updates"]
    finally:
        for sock in sockets:
            sock.close()
    eventually(lambda: lab.client.host.get_diagnostics().updates["waiters"] == 0)


# A long time, with a daemon that dies


class Follower:
    """A toolstack's view of everything, kept by updates alone."""

    def __init__(self, path):
        self._path = path
        self._client = Client(path, 30)
        self.token = None
        self.view = {}
        self.resyncs = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while not self._stop.is_set():
            try:
                self._turn()
            except ConnectionFailed:
                self._stop.wait(0.02)

    def _turn(self):
        batch = self._client.updates.get(self.token, timeout=0.5)
        if batch.resync:
            self.resyncs += 1
            known = {(u.type, u.id) for u in batch.updates}
            self.view = {key: value for key, value in self.view.items() if key in known}
        for update in batch.updates:
            self._look(update.type, update.id)
        self.token = batch.next

    def _look(self, type, id):
        if type == "host":
            return
        try:
            self.view[type, id] = plain(getattr(self._client, type).stat(id))
        except DoesNotExist:
            self.view.pop((type, id), None)

    def up_to_date(self, token):
        return self.token == token

    def close(self):
        self._stop.set()
        self._thread.join(60)
        self._client.close()


def everything(client):
    found = {("task", t.id): plain(t) for t in client.task.list()}
    for record in client.vm.list():
        found["vm", record.id] = plain(record)
        for kind in ("vbd", "vif", "pci"):
            for device in getattr(client, kind).list(record.id):
                found[kind, device.id] = plain(device)
    return found


def disturbed(client, chance, ids):
    """Something happens."""
    id = chance.choice(ids)
    device = f"{id}/{chance.choice('xy')}"
    vm = client.vm
    chance.choice(
        [
            lambda: vm.add(Vm(id=id)),
            lambda: vm.remove(id),
            lambda: vm.set(id, {"name": str(chance.random())}),
            lambda: client.vbd.add(Vbd(id=device)),
            lambda: client.vbd.remove(device),
            lambda: client.vif.add(Vif(id=device, backend=Bridge(name="b"))),
            lambda: client.vif.remove(device),
            lambda: vm.start(id),
            lambda: vm.start(id),
            lambda: vm.shutdown(id),
            lambda: vm.reboot(id),
            lambda: vm.suspend(id),
            lambda: vm.resume(id),
            lambda: client.vbd.plug(device),
            lambda: client.vbd.unplug(device),
            lambda: client.task.destroy(chance.choice(client.task.list()).id),
            lambda: client.debug.trigger(chance.choice(["crash", "halt", "lose"]), [id]),
        ]
    )()


def without_age(view):
    """Less what an observation changes that finds nothing new."""
    for (type, _), value in view.items():
        if type == "vm":
            value["state"].pop("observed_at")
    return view


def test_a_follower_has_the_daemons_view_after_a_long_time_and_many_crashes(start):
    lab = start()
    chance = random.Random(20)
    ids = [f"soak-{n}" for n in range(6)]
    followers = [Follower(lab.daemon.socket) for _ in range(3)]
    try:
        until = time.monotonic() + 20
        crashes = 0
        while time.monotonic() < until:
            for _ in range(chance.randrange(1, 150)):
                try:
                    disturbed(lab.client, chance, ids)
                except (XenopsError, IndexError):
                    pass
            if time.monotonic() > until:
                break
            crashes += 1
            lab.client.close()
            lab.daemon.kill()
            lab.daemon.start()
        lab.daemon.recovered()

        def quiet():
            return not lab.client.host.get_diagnostics().queues

        eventually(quiet)
        # What vanished without an event is noticed by and by.
        eventually(lambda: not any(lab.daemon.domains().get(r.id) is None
                                   and r.state.domain_ids for r in lab.client.vm.list()))  # fmt: skip
        eventually(quiet)
        token = drained(lab)
        for follower in followers:
            eventually(lambda f=follower: f.up_to_date(token))
            assert without_age(follower.view) == without_age(everything(lab.client))
            assert follower.resyncs >= 1
        assert crashes >= 1
    finally:
        for follower in followers:
            follower.close()


def test_a_poll_that_is_left_alone_costs_no_cpu(lab):
    """A waiting poll is not answered by polling."""
    token = drained(lab)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(lab.daemon.socket))
        request = {"id": 1, "method": "UPDATES.get", "params": [token, 600], "jsonrpc": "2.0"}
        sock.sendall(json.dumps(request).encode() + b"\n")
        readable, _, _ = select.select([sock], [], [], 0.5)
        assert not readable
