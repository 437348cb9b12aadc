"""For when no command will do: any call."""
# click reads the escape in docstrings.
# ruff: noqa: D301

import json
import sys

import click

from xenopsd.cli import completers
from xenopsd.cli.output import as_json
from xenopsd.cli.session import Session


@click.command()
@completers.naming("method", shell_complete=completers.methods)
@click.argument("params", metavar="[JSON]", default="{}")
@click.pass_obj
def call(session: Session, /, *, method: str, params: str) -> None:
    """Make any call and print its result as JSON.

    Its parameters are a JSON object; - reads it from stdin.

    \b
    Examples:
      xenops call HOST.query
      xenops call VM.stat '{"id": "web"}'
      xenops call rpc.discover
    """
    try:
        given = json.loads(sys.stdin.read() if params == "-" else params)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"The parameters are no JSON: {error}.") from error
    if method == "UPDATES.subscribe":
        raise click.UsageError("A call has one answer; xenops events follows updates.")
    if not isinstance(given, dict):
        raise click.UsageError('The parameters must be a JSON object, such as {"id": "web"}.')
    try:
        answer = session.client.call(method, **given)
    except UnicodeEncodeError:
        raise
    except ValueError as error:
        raise click.UsageError(f"The parameters: {error}.") from error
    click.echo(as_json(answer))


COMMANDS = (call,)
