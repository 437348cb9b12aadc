"""What must be true when nothing goes on any more: checks that answer [] when all is well."""

import json

from rigs.daemon import DaemonProcess
from rigs.lab import check_memory, check_sensible
from rigs.outside import nothing_of, untidy
from soak.followers import Follower, differences, truth

from idl.client import Client
from idl.errors import XenopsError

#: Of the host: less than all VMs want at once, so that some are squeezed and some refused.
TOTAL = 2**30


def busy(client: Client) -> list[str]:
    """What still goes on. What waits is cancelled: a guest may be asked for long."""
    pending = [task.id for task in client.task.list() if not task.ended]
    for task in pending:
        client.task.cancel(task)
    queues = [f"the queue of {queue.vm}" for queue in client.host.get_diagnostics().queues]
    recovering = ["recovery"] if client.host.query().recovering else []
    return [f"{what} has not ended" for what in (*pending, *queues, *recovering)]


def attended(client: Client) -> list[str]:
    """VMs in doubt after a fault; a hard shutdown is what an administrator does about them."""
    doubtful = [vm for vm in client.vm.list() if vm.state.attention is not None]
    for vm in doubtful:
        client.run(client.vm.shutdown(vm.id), 30)
    return [f"{vm.id}: {vm.state.attention.reason}" for vm in doubtful if vm.state.attention]


def finished(daemon: DaemonProcess, client: Client) -> None:
    """Shut down what single steps have only begun to start, as their toolstack would."""
    for domain in daemon.domains().values():
        if domain and not domain.get("built"):
            client.run(client.vm.shutdown(domain["vm"]), 30)


def wrong(daemon: DaemonProcess, client: Client, vms: list[str]) -> list[tuple[str, str]]:
    """VM ("" for none) and what is wrong, by the world's files and the daemon's answers."""
    found: list[tuple[str, str]] = []
    for vm in vms:
        try:
            if client.vm.exists(vm):
                check_sensible(daemon, client, vm)
            elif left := nothing_of(daemon.state_dir, daemon.run_dir, vm):
                found.append((vm, f"it is removed, and there is {left}"))
        except (AssertionError, XenopsError) as error:
            found.append((vm, f"{type(error).__name__}: {error}"))
    try:
        check_memory(daemon, client, TOTAL)
    except AssertionError as error:
        found.append(("", str(error)))
    found += [("", f"left behind: {path}") for path in untidy(daemon.state_dir, daemon.run_dir)]
    found += [("", f"foreign: {domain}") for domain in client.host.list_foreign()]
    for record in client.host.get_diagnostics().quarantined:
        found.append((record.vm or "", f"quarantined: {record}"))
    return found


def misled(client: Client, followers: list[Follower]) -> list[str]:
    """What a follower believes and is not so."""
    daemon = truth(client)
    return [line for follower in followers for line in differences(follower, daemon)]


def shown(client: Client, vm: str) -> str:
    """What the daemon says of a VM, for a report."""
    try:
        return json.dumps(client.call("VM.stat", id=vm))
    except XenopsError as error:
        return str(error)
