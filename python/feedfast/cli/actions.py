"""Commands that have commands of their own, such as `feedfast store gc`."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from feedfast.cli.console import Console
from feedfast.cli.help_format import HelpFormatter


class Action(Protocol):
    """A module with one action; `run` returns the exit code, None being 0."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Arguments of the action."""

    def run(self, args: argparse.Namespace, console: Console) -> int | None:
        """Runs it."""


# Name to module and one line of help.
Actions = Mapping[str, tuple[Action, str]]


def add_actions(parser: argparse.ArgumentParser, actions: Actions) -> None:
    """The arguments of a command that is one of `actions`."""
    subparsers = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, (module, help_text) in actions.items():
        action = subparsers.add_parser(
            name,
            help=help_text,
            description=help_text[0].upper() + help_text[1:] + ".",
            formatter_class=HelpFormatter,
        )
        module.add_arguments(action)
        # The parser above has --json too; only a given one may change its value.
        action.add_argument(
            "--json",
            action="store_true",
            default=argparse.SUPPRESS,
            help="print the machine-readable result alone",
        )


def run_action(args: argparse.Namespace, actions: Actions) -> int:
    """Runs the action that was chosen; SIGTERM unwinds it like Ctrl-C."""
    module, _ = actions[args.action]
    with _terminated_like_interrupted():
        return module.run(args, Console(as_json=args.json)) or 0


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """So that no unfinished file stays behind."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
