"""`xenops` run within the test, against the daemon of a few lines."""

from typing import Any

import pytest
from click.testing import CliRunner, Result

from xenopsd.cli import main


@pytest.fixture
def xenops(daemon):
    def run(*args: str, **options: Any) -> Result:
        runner = CliRunner(env={"XENOPS_SOCKET": str(daemon.path)})
        found = runner.invoke(main, list(args), **options)
        if found.exception and not isinstance(found.exception, SystemExit):
            raise found.exception
        return found

    return run
