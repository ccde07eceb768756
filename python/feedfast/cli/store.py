"""`feedfast store`: lists, compares, copies, cleans, verifies and prunes model stores."""

from __future__ import annotations

import argparse

from feedfast.cli import store_check, store_diff, store_gc, store_list, store_prune, store_push
from feedfast.cli.actions import Actions, add_actions, run_action

ACTIONS: Actions = {
    "list": (store_list, "models and versions, their bytes and what they share"),
    "diff": (store_diff, "sections, blobs and bytes that differ between two versions"),
    "push": (store_push, "copy versions into another store: only blobs it has not, manifest last"),
    "gc": (store_gc, "remove blobs that no version names, and old versions on request"),
    "prune": (store_prune, "write a smaller version of a ranker that scores the same"),
    "check": (store_check, "read and verify every byte; exit code 1 when something is wrong"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast store` and its actions."""
    add_actions(parser, ACTIONS)


def run(args: argparse.Namespace) -> int:
    """Runs one action."""
    return run_action(args, ACTIONS)
