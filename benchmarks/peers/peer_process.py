"""A peer in another interpreter: a line of JSON for every request, a line for every answer."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from pathlib import Path
from typing import Any, cast

VARIABLE = "FEEDFAST_LOOKUP_PEERS"


class PeerProcess:
    """A script that reads requests on standard input; ends with it."""

    def __init__(self, interpreter: str, script: Path, environment: dict[str, str]) -> None:
        self._name = script.name
        self._process = subprocess.Popen(
            [interpreter, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": "ignore", **environment},
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            RuntimeError: The process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self._name} ended; see its messages above")
        return cast(dict[str, Any], json.loads(line))

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def open_peer_process(
    script: Path, *, what: str, environment: dict[str, str] | None = None
) -> PeerProcess | None:
    """The script in the interpreter that FEEDFAST_LOOKUP_PEERS names, or None, with a line of why.

    Args:
        script: Of benchmarks/peers.
        what: Is not measured then.
        environment: Variables beside those of this process.
    """
    interpreter = os.environ.get(VARIABLE)
    if interpreter is None:
        logging.getLogger("feedfast.bench").warning(
            "%s: not measured; %s names no interpreter", what, VARIABLE
        )
        return None
    return PeerProcess(interpreter, script, environment or {})
