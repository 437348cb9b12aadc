"""What CRIU says of its failures."""

from backends.lxc.apart import checkpoint

LOG = """\
(00.000000) Version: 3.17.1 (gitid 0)
(00.012345) Warn  (criu/mount.c:1259): mnt: Can't create a temporary directory
(00.023456) Error (criu/tty.c:1935): tty: Found a slave without a master
(00.034567) Error (criu/cr-dump.c:1781): Dumping FAILED.
"""


def test_the_first_error_is_the_cause():
    cause = checkpoint.first_error(LOG.splitlines())
    assert cause == "tty: Found a slave without a master"


def test_a_log_without_an_error_has_no_cause():
    assert checkpoint.first_error(LOG.splitlines()[:2]) is None
    assert checkpoint.first_error([]) is None
