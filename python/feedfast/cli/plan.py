"""`feedfast plan`: what a model would cost, before it is trained."""

from __future__ import annotations

import argparse

from feedfast.cli import plan_calibrate, plan_latency, plan_memory, plan_shards
from feedfast.cli.actions import Actions, add_actions, run_action

ACTIONS: Actions = {
    "latency": (
        plan_latency,
        "the widest net whose requests stay under a time, with and without ids",
    ),
    "calibrate": (plan_calibrate, "links, memory and lookup rates of training processes"),
    "memory": (plan_memory, "parameters against stored and resident bytes at any scale"),
    "shards": (
        plan_shards,
        "which process holds which part of which table, and how long a step takes",
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast plan` and its actions."""
    add_actions(parser, ACTIONS)


def run(args: argparse.Namespace) -> int:
    """Runs one action."""
    return run_action(args, ACTIONS)
