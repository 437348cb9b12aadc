"""`xenops` run within the test, against the daemon of a few lines."""

from typing import Any

import pytest
from click.testing import CliRunner, Result

from xenopsd.cli import main


@pytest.fixture
def xenops(daemon):
    def run(*args: str, **options: Any) -> Result:
        found = CliRunner().invoke(main, ["--socket", str(daemon.path), *args], **options)
        if found.exception and not isinstance(found.exception, SystemExit):
            raise found.exception
        return found

    return run
