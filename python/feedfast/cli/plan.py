"""`feedfast plan`: what a model would cost, before it is trained."""

from __future__ import annotations

import argparse

from feedfast.cli import plan_latency, plan_memory
from feedfast.cli.actions import Actions, add_actions, run_action

ACTIONS: Actions = {
    "latency": (
        plan_latency,
        "the widest net whose requests stay under a time, with and without ids",
    ),
    "memory": (plan_memory, "parameters against stored and resident bytes at any scale"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast plan` and its actions."""
    add_actions(parser, ACTIONS)


def run(args: argparse.Namespace) -> int:
    """Runs one action."""
    return run_action(args, ACTIONS)
