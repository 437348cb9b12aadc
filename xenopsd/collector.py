"""The cycle collector: what stands after the load is left out, and the rest looked at seldom.

A full collection holds every thread up, the event loop too, and longer the more VMs there are:
60 ms of CPU with 1,000 of them. Operations leave no cycle behind but where they fail, so that
there is little to be found. Says nothing of when memory goes back to the system.
"""

import gc

#: Containers made and not freed before the youngest are looked at; and how many collections of
#: one generation come before one of the next.
THRESHOLDS = (10_000, 50, 100)


def spare() -> None:
    """Once everything is loaded."""
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
