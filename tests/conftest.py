"""What holds for every test, however the tests are started."""

import signal

import pytest
from rigs.together import together
from xdist.scheduler import LoadFileScheduling

# A shell that starts something in the background has it ignore SIGINT, nohup SIGHUP, and so would
# every process below; the tests of Ctrl-C and of a closed terminal are about a terminal's.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Together(LoadFileScheduling):
    """Gives a worker one file after another, or what is together for another reason."""

    def _split_scope(self, nodeid):
        return together(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """For `--dist loadfile`. Marks (`loadgroup`) do nothing with pytest 9.2 and xdist 3.8."""
    return Together(config, log) if config.getvalue("dist") == "loadfile" else None
