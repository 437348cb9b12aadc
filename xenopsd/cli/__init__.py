"""`xenops`: the administrator's command, a client like any other."""

from xenopsd.cli.app import main

__all__ = ["main"]
