"""Which tests one worker of pytest-xdist runs one after the other: those of a file, since they share
what the file has made, and those of several files that share something of the host."""

#: Files and tests (beginnings of pytest's ids): the demo looks for what any demo has left; and
#: the bridge of `make run` has one name, and goes with the last who had it.
HOST = (
    "tests/integration/test_demo.py::",
    "tests/lxc/test_demo.py::",
    "tests/lxc/test_run_here.py::",
    "tests/docs/test_pages.py::test_a_page_does_what_it_says[docs/containers.md]",
    "tests/docs/test_pages.py::test_a_page_does_what_it_says[docs/how-to/lxc.md]",
)


def together(nodeid: str) -> str:
    """What a test is in; tests that are in the same are not run beside each other."""
    return "host" if nodeid.startswith(HOST) else nodeid.partition("::")[0]
