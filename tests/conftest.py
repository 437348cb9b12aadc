"""What holds for every test, however the tests are started."""

import signal

# A shell that starts something in the background has it ignore SIGINT, and so would every
# process below; the tests of Ctrl-C are about a terminal's.
signal.signal(signal.SIGINT, signal.default_int_handler)
