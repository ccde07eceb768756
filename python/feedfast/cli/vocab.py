"""`feedfast vocab`: builds vocabularies, looks keys up, shows what a file is made of, converts."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from feedfast.cli import vocab_build, vocab_convert, vocab_inspect, vocab_lookup
from feedfast.cli.console import Console

# Each module has add_arguments(parser) and run(args, console).
ACTIONS = {
    "build": (vocab_build, "build a vocabulary from keys"),
    "lookup": (vocab_lookup, "rows of keys: printed one per line, or written beside the keys"),
    "inspect": (vocab_inspect, "sections, counts and checksums of a vocabulary"),
    "convert": (vocab_convert, "a vocabulary from an ordered list of keys, keeping their ids"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast vocab` and its actions."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, (module, help_text) in ACTIONS.items():
        action = actions.add_parser(
            name,
            help=help_text,
            description=help_text[0].upper() + help_text[1:] + ".",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        module.add_arguments(action)
        # The parser above has --json too; only a given one may change its value.
        action.add_argument(
            "--json",
            action="store_true",
            default=argparse.SUPPRESS,
            help="print the machine-readable result alone",
        )


def run(args: argparse.Namespace) -> int:
    """Runs one action."""
    console = Console(as_json=args.json)
    module, _ = ACTIONS[args.action]
    with _terminated_like_interrupted():
        module.run(args, console)
    return 0


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that no unfinished file stays behind."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
