"""`python -m bench [SCENARIO…]`: measure, and print the table."""

import argparse
import resource
import sys
import tempfile
from pathlib import Path

from bench.pinning import CLIENT, described, pinned
from bench.plan import Plan, quick
from bench.rows import Row
from bench.scenarios import SCENARIOS
from bench.table import table


def main() -> None:
    options = _arguments()
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.directory) as directory:
        plan = quick(Path(directory)) if options.quick else Plan(Path(directory))
        with pinned(CLIENT):
            for name in options.scenarios or SCENARIOS:
                print(f"measuring {name}", file=sys.stderr, flush=True)
                rows += SCENARIOS[name](plan)
    print(described())
    print(table(rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--quick", action="store_true", help="little of everything, in seconds")
    parser.add_argument("--directory", help="where the daemons write (default: as tempfile says)")
    options = parser.parse_args()
    if unknown := set(options.scenarios) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    return options


if __name__ == "__main__":
    main()
