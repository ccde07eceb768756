"""`feedfast plan`: what a model would cost, before it is trained."""

from __future__ import annotations

import argparse

from feedfast.cli import plan_latency
from feedfast.cli.console import Console

# Each module has add_arguments(parser) and run(args, console).
ACTIONS = {
    "latency": (
        plan_latency,
        "the widest net whose requests stay under a time, with and without ids",
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast plan` and its actions."""
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
    module, _ = ACTIONS[args.action]
    module.run(args, Console(as_json=args.json))
    return 0
