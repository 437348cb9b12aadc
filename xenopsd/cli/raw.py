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
@click.argument("method", shell_complete=completers.methods)
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
    text = sys.stdin.read() if params == "-" else params
    try:
        given = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"The parameters are no JSON: {error}.") from error
    if not isinstance(given, dict):
        raise click.UsageError('The parameters must be a JSON object, such as {"id": "web"}.')
    click.echo(as_json(session.client.call(method, **given)))


COMMANDS = (call,)
