"""Entry point of the `feedfast` command."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

import feedfast
from feedfast.cli.help_format import HelpFormatter

# Module of feedfast.cli and one line of help; the module is imported when it is chosen, so that
# `feedfast --help` and the commands of the base wheel load nothing they do not need.
COMMANDS = {
    "demo": "train, evaluate, export and rank in one go",
    "simulate": "write a simulated impression log",
    "train": "train a ranker on an impression log",
    "evaluate": "measure a trained ranker beside its baseline",
    "export": "write a trained ranker into a model store",
    "score": "score the requests of an impression log with an exported ranker",
    "vocab": "build, look up, inspect and convert vocabularies",
    "store": "list, compare, copy, clean and verify model stores",
    "plan": "what a model would cost, before it is trained",
    "profile": "where the time of a training step goes, op by op",
    "inspect": "sizes of the models in a store, or what hashing keys would cost",
    "bench": "run the repository's benchmarks with their peers",
}

# The extra that brings a package, for the message when it is missing.
_EXTRA_OF = {
    "tensorflow": "tf",
    "pyarrow": "data",
    "xgboost": "train",
    "sklearn": "train",
    "matplotlib": "train",
    "jinja2": "train",
}


def _module_name(command: str) -> str:
    return f"feedfast.cli.{command}"


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """The parser of the whole command line, with the arguments of `command` alone filled in."""
    parser = argparse.ArgumentParser(
        prog="feedfast", description="From raw string IDs to a ranked feed."
    )
    parser.add_argument("--version", action="version", version=feedfast.__version__)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, help_text in COMMANDS.items():
        subparser = subparsers.add_parser(
            name,
            help=help_text,
            description=help_text[0].upper() + help_text[1:] + ".",
            formatter_class=HelpFormatter,
        )
        if name == command:
            importlib.import_module(_module_name(name)).add_arguments(subparser)
        subparser.add_argument(
            "--json", action="store_true", help="print the machine-readable result alone"
        )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv` (default: the process's arguments), run one subcommand, return its exit code.

    Bad input of any kind ends with one line on stderr and exit code 2.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in arguments if not word.startswith("-")), None)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors; read when TensorFlow is imported
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    try:
        parsed = build_parser(command if command in COMMANDS else None).parse_args(arguments)
        parsed.arguments = arguments  # for commands that start themselves in other processes
        code: int = importlib.import_module(_module_name(parsed.command)).run(parsed)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in _EXTRA_OF:
            raise
        print(
            f"feedfast {command}: needs the package {package}; install it with: "
            f"pip install 'feedfast[{_EXTRA_OF[package]}]'",
            file=sys.stderr,
        )
        return 2
    except (ValueError, TypeError, LookupError, OSError, ImportError, RuntimeError) as error:
        print(f"feedfast {command}: {_message(error)}", file=sys.stderr)
        return 2
    except MemoryError as error:  # numpy's names the array, others say nothing
        print(f"feedfast {command}: not enough memory: {error or 'no details'}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"feedfast {command}: interrupted", file=sys.stderr)
        return 130
    return code


def _message(error: Exception) -> str:
    # The system's own errors read "[Errno 2] No such file or directory: 'x'".
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)
