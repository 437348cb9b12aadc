"""The host's memory: reserved, refused, squeezed out of others and given back."""

import pytest
from rigs.daemon import eventually
from rigs.lab import check_memory
from rigs.scenarios import usable

from idl.errors import Cancelled, HypervisorError, NotEnoughMemory
from idl.task import Completed, Failed

MIB = 2**20
TOTAL = 1024 * MIB
SMALL = f"[simulator]\nmemory_total = {TOTAL}\n"


def fixed(lab, mib, **kwargs):
    """A VM that needs exactly so much."""
    return lab.vm(disks=0, nics=0, memory_static_max=mib * MIB, **kwargs)


def elastic(lab, least, most):
    """A VM that may be ballooned."""
    return lab.vm(
        disks=0,
        nics=0,
        memory_static_max=most * MIB,
        memory_dynamic_max=most * MIB,
        memory_dynamic_min=least * MIB,
    )


def started(lab, id):
    lab.run(lab.client.vm.start(id))
    return id


def target(lab, id):
    return lab.stat(id).state.memory_target // MIB


def exact(lab):
    eventually(lambda: not lab.client.host.get_diagnostics().queues)
    check_memory(lab.daemon, lab.client, TOTAL)


def test_memory_is_reserved_and_given_back(shared):
    lab = shared(SMALL)
    assert lab.client.host.stat().memory_total == TOTAL
    ids = [started(lab, fixed(lab, 256)) for _ in range(4)]
    assert lab.client.host.stat().memory_free == 0
    for id in ids:
        lab.run(lab.client.vm.shutdown(id))
    assert lab.client.host.stat().memory_free == TOTAL
    exact(lab)


def test_what_does_not_fit_is_refused_and_says_what_is_short(shared):
    lab = shared(SMALL)
    started(lab, fixed(lab, 700))
    id = fixed(lab, 400)
    error = lab.failure(lab.client.vm.start(id), NotEnoughMemory)
    assert (error.needed, error.free) == (400 * MIB, 324 * MIB)
    assert lab.sensible(id) == "halted"
    exact(lab)


def test_what_the_host_keeps_is_not_given(start):
    lab = start(SMALL + f"[memory]\nhost_reserve = {256 * MIB}\n")
    assert lab.client.host.stat().memory_free == 768 * MIB
    error = lab.failure(lab.client.vm.start(fixed(lab, 769)), NotEnoughMemory)
    assert error.free == 768 * MIB
    started(lab, fixed(lab, 768))


def test_memory_may_be_promised_more_than_once(start):
    lab = start(SMALL + "[memory]\novercommit = 2.0\n")
    assert lab.client.host.stat().memory_free == 2 * TOTAL
    for _ in range(2):
        started(lab, fixed(lab, 1024))
    lab.failure(lab.client.vm.start(fixed(lab, 1)), NotEnoughMemory)


def test_a_start_takes_what_there_is_of_its_range(shared):
    lab = shared(SMALL)
    started(lab, fixed(lab, 768))
    id = started(lab, elastic(lab, 128, 512))
    assert target(lab, id) == 256
    assert lab.client.host.stat().memory_free == 0
    exact(lab)


def test_running_vms_are_squeezed_and_get_it_back(shared):
    lab = shared(SMALL)
    first, second = (started(lab, elastic(lab, 128, 512)) for _ in range(2))
    assert (target(lab, first), target(lab, second)) == (512, 512)
    third = started(lab, fixed(lab, 512))
    assert target(lab, first) + target(lab, second) == 512
    assert min(target(lab, first), target(lab, second)) >= 128
    assert lab.stat(first).state.memory_actual == lab.stat(first).state.memory_target
    exact(lab)
    lab.run(lab.client.vm.shutdown(third))
    eventually(lambda: (target(lab, first), target(lab, second)) == (512, 512))
    exact(lab)


def test_squeezing_stops_at_the_dynamic_minimum(shared):
    lab = shared(SMALL)
    first = started(lab, elastic(lab, 512, 1024))
    id = fixed(lab, 513)
    error = lab.failure(lab.client.vm.start(id), NotEnoughMemory)
    assert (error.needed, error.free) == (513 * MIB, 512 * MIB)
    assert target(lab, first) == 1024, "nobody is squeezed in vain"
    started(lab, fixed(lab, 512))
    assert target(lab, first) == 512
    exact(lab)


def test_a_guest_that_does_not_balloon_is_not_counted_on(shared):
    lab = shared(SMALL)
    first = started(lab, elastic(lab, 128, 1024))
    lab.trigger("uncooperative-balloon", first, "true")
    eventually(lambda: lab.stat(first).state.uncooperative_balloon)
    error = lab.failure(lab.client.vm.start(fixed(lab, 256)), NotEnoughMemory)
    assert error.free == 0
    assert lab.stat(first).state.memory_actual == 1024 * MIB


def test_a_paused_vm_is_not_squeezed(shared):
    lab = shared(SMALL)
    first = started(lab, elastic(lab, 128, 1024))
    lab.run(lab.client.vm.pause(first))
    lab.failure(lab.client.vm.start(fixed(lab, 256)), NotEnoughMemory)
    assert target(lab, first) == 1024


def test_a_resume_needs_memory_too(shared):
    lab = shared(SMALL)
    id = started(lab, fixed(lab, 600))
    lab.run(lab.client.vm.suspend(id))
    other = started(lab, fixed(lab, 600))
    error = lab.failure(lab.client.vm.resume(id), NotEnoughMemory)
    assert (error.needed, error.free) == (600 * MIB, 424 * MIB)
    assert lab.sensible(id) == "suspended"
    lab.run(lab.client.vm.shutdown(other))
    lab.run(lab.client.vm.resume(id))
    assert lab.sensible(id) == "running"
    exact(lab)


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
def test_a_start_that_comes_to_nothing_gives_its_memory_back(shared, how):
    lab = shared(SMALL)
    id = fixed(lab, 800)
    if how == "fails":
        lab.trigger("fail", "vm_build", 1)
        lab.failure(lab.client.vm.start(id), HypervisorError)
    else:
        lab.trigger("set-cancel-trigger", id, 4)
        lab.failure(lab.client.vm.start(id, debug_info=id), Cancelled)
    assert lab.client.host.stat().memory_free == TOTAL
    exact(lab)
    usable(lab, id)


def test_a_domain_that_vanishes_gives_its_memory_back(shared):
    lab = shared(SMALL)
    id = started(lab, fixed(lab, 800))
    lab.trigger("lose", id)
    eventually(lambda: lab.client.host.stat().memory_free == TOTAL)
    assert lab.sensible(id) == "halted"


def test_a_change_of_the_range_is_reserved_and_released(shared):
    lab = shared(SMALL)
    id = started(lab, elastic(lab, 512, 512))
    lab.run(lab.client.vm.set_memory_dynamic_range(id, 128 * MIB, 256 * MIB))
    assert target(lab, id) == 256
    assert lab.client.host.stat().memory_free == 768 * MIB
    exact(lab)


def test_a_balloon_that_is_not_let_out_reserves_nothing(shared):
    lab = shared(SMALL)
    id = started(lab, elastic(lab, 128, 1024))
    other = started(lab, fixed(lab, 512))
    lab.trigger("fail", "vm_set_memory", 1)
    lab.run(lab.client.vm.shutdown(other))
    exact(lab)
    assert target(lab, id) == 512
    assert lab.client.host.stat().memory_free == 512 * MIB


def test_a_balloon_is_let_out_no_further_than_its_domain_allows(shared):
    lab = shared(SMALL)
    id = started(lab, elastic(lab, 128, 256))
    other = started(lab, fixed(lab, 896))
    assert target(lab, id) == 128
    more = {"memory_static_max": 512 * MIB, "memory_dynamic_max": 512 * MIB}
    lab.client.vm.set(id, more)
    lab.run(lab.client.vm.shutdown(other))
    eventually(lambda: target(lab, id) == 256)
    exact(lab)


def test_of_two_that_race_for_the_last_megabytes_one_wins(shared):
    lab = shared(SMALL)
    started(lab, fixed(lab, 624))
    first, second = fixed(lab, 400), fixed(lab, 400)
    for _ in range(20):
        tasks = {id: lab.client.vm.start(id) for id in (first, second)}
        ends = {id: lab.end(task).state for id, task in tasks.items()}
        (won,) = [id for id, end in ends.items() if isinstance(end, Completed)]
        (lost,) = [end for end in ends.values() if isinstance(end, Failed)]
        assert lost.error.data["error"] == "NotEnoughMemory"
        assert lab.client.host.stat().memory_free == 0
        lab.run(lab.client.vm.shutdown(won))
    exact(lab)


def test_of_two_that_need_the_same_vm_squeezed_both_start_or_one_is_refused(shared):
    lab = shared(SMALL)
    donor = started(lab, elastic(lab, 224, 1024))
    for size, wins in ((400, 2), (500, 1)):
        pair = [fixed(lab, size) for _ in range(2)]
        tasks = [lab.client.vm.start(id) for id in pair]
        ends = [lab.end(task).state for task in tasks]
        assert sum(isinstance(end, Completed) for end in ends) == wins
        exact(lab)
        for id in pair:
            lab.run(lab.client.vm.shutdown(id))
        eventually(lambda: target(lab, donor) == 1024)
    exact(lab)


def test_reservations_are_found_again_after_a_crash(start):
    lab = start(SMALL)
    id = started(lab, fixed(lab, 600))
    squeezed = started(lab, elastic(lab, 128, 424))
    other = started(lab, fixed(lab, 200))
    lab.restart()
    assert lab.client.host.stat().memory_free == 0
    exact(lab)
    lab.failure(lab.client.vm.start(fixed(lab, 400)), NotEnoughMemory)
    for vm in (id, other):
        lab.run(lab.client.vm.shutdown(vm))
    eventually(lambda: target(lab, squeezed) == 424)
    exact(lab)


def test_memory_that_a_guest_gives_back_late_is_free(start):
    lab = start(SMALL)
    id = started(lab, elastic(lab, 128, 512))
    lab.trigger("uncooperative-balloon", id, "true")
    lab.run(lab.client.vm.set_memory_dynamic_range(id, 128 * MIB, 256 * MIB))
    lab.restart()
    assert lab.client.host.stat().memory_free == 512 * MIB
    lab.trigger("uncooperative-balloon", id, "false")
    eventually(lambda: lab.client.host.stat().memory_free == 768 * MIB)
    exact(lab)
