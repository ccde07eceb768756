"""`feedfast vocab`: builds vocabularies, looks keys up, shows what a file is made of, converts."""

from __future__ import annotations

import argparse

from feedfast.cli import vocab_build, vocab_convert, vocab_inspect, vocab_lookup
from feedfast.cli.actions import Actions, add_actions, run_action

ACTIONS: Actions = {
    "build": (vocab_build, "build a vocabulary from keys"),
    "lookup": (vocab_lookup, "rows of keys: printed one per line, or written beside the keys"),
    "inspect": (vocab_inspect, "sections, counts and checksums of a vocabulary"),
    "convert": (vocab_convert, "a vocabulary from an ordered list of keys, keeping their ids"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast vocab` and its actions."""
    add_actions(parser, ACTIONS)


def run(args: argparse.Namespace) -> int:
    """Runs one action."""
    return run_action(args, ACTIONS)
