"""Entry point of the `feedfast` command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import feedfast


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv` (default: the process's arguments), run one subcommand, return its exit code."""
    parser = argparse.ArgumentParser(prog="feedfast", description=feedfast.__doc__)
    parser.add_argument("--version", action="version", version=feedfast.__version__)
    parser.parse_args(argv)
    parser.print_help()
    return 0
