"""What holds for every test, however the tests are started."""

import signal

# A shell that starts something in the background has it ignore SIGINT, nohup SIGHUP, and so would
# every process below; the tests of Ctrl-C and of a closed terminal are about a terminal's.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
