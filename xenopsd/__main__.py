"""`xenopsd`: arguments, configuration, and one life of the daemon."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import click
import structlog
import uvloop

from backends import registry
from idl.errors import InvalidParameter
from xenopsd import arena, killpoints
from xenopsd import config as configuration
from xenopsd import log as logging
from xenopsd.check import NEXT_STEP, check, report
from xenopsd.config import Config, ConfigError
from xenopsd.daemon import Daemon
from xenopsd.startup import StartFailed, activated, choose_backend, lock_state, open_sockets

log = structlog.get_logger(__name__)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "file", metavar="FILE", help="Configuration file (TOML).")
@click.option("--instance", metavar="NAME", help="Name of the instance (default: default).")
@click.option("--backend", metavar="NAME", help="Backend (default: the best of this machine).")
@click.option("--state-dir", metavar="DIR", help="What is remembered; one daemon each.")
@click.option("--run-dir", metavar="DIR", help="Where the sockets are; it stands for the host.")
@click.option("--workers", type=int, metavar="N", help="Size of the worker pool, 1 to 1024.")
@click.option("--debug", is_flag=True, default=None, help="Offer the DEBUG calls.")
@click.option(
    "--check-config",
    is_flag=True,
    help="Print every value that counts and where it comes from, and start nothing.",
)
@click.version_option(package_name="xenopsd")
def main(file: str | None, *, check_config: bool, **options: Any) -> None:
    """The per-host virtual machine manager, in the foreground; logs go to stderr.

    \b
    Examples:
      xenopsd                                  the best backend of this machine
      xenopsd --backend simulator --debug      for the author of a toolstack
      xenopsd --instance test --workers 1      a second instance, with one worker
      xenopsd --check-config                   what would count, and where it comes from
    """  # noqa: D301  # click's own mark
    read = partial(_read, options, file)
    try:
        config = read()
        killpoints.given(os.environ)
    except ConfigError as error:
        _refuse(f"{error}\n{NEXT_STEP}")
    except InvalidParameter as error:
        _refuse(f"{killpoints.VARIABLE}: {error.reason}")
    if check_config:
        click.echo(report(config, registry.options()))
        return
    logging.setup(config.log.level)
    arena.single()
    try:
        held = lock_state(config)
        listeners = open_sockets(config, activated(os.environ, os.getpid()))
        backend = choose_backend(config)
    except StartFailed as error:
        _refuse(str(error))
    uvloop.run(_serve(config, backend, listeners, read))
    # Released by the end of the process, as it would be by a crash.
    os.close(held.descriptor)
    # Threads stuck in a call must not hold the process back: every VM stays as it is.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _read(options: Mapping[str, Any], file: str | None) -> Config:
    """The configuration, checked as far as that goes without a start. Raises ConfigError."""
    config = configuration.read(
        options,
        dict(os.environ),
        root=os.geteuid() == 0,
        file=file,
        backends=tuple(registry.probe()),
    )
    # Here and at a reload, not when the backend is opened: a mistake must not pass until then.
    check(config, registry.options())
    return config


def _refuse(reason: str) -> NoReturn:
    click.echo(f"xenopsd: {reason}", err=True)
    sys.exit(1)


async def _serve(config: Config, backend: Any, listeners: Sequence[Any], read: Any) -> None:
    daemon = Daemon(config, backend, listeners)
    daemon.reload = partial(_reload, daemon, read)  # type: ignore[method-assign]  # its hook
    await daemon.run()


def _reload(daemon: Daemon, read: Callable[[], Config]) -> str:
    """SIGHUP: take what can be taken live and say what needs a restart, or keep all on an error.

    Returns what an administrator should know, for the status of the service.
    """
    try:
        new = read()
    except ConfigError as error:
        log.error("reload_refused", reason=str(error))
        return f"the configuration is refused and the old one goes on: {error}"
    live, restart = configuration.changes(daemon.config, new)
    log.info("reloaded", live=list(live), restart_needed=list(restart))
    daemon.apply(configuration.taken(daemon.config, new))
    return f"restart needed for {', '.join(restart)}" if restart else ""


if __name__ == "__main__":
    main()
