"""A serving process in small: opens a store, ranks pickled requests, times one, prints JSON.

Run as `python -m feedfast.cli.rank_process STORE MODEL REQUESTS REPEATS`. It needs numpy and
safetensors alone and reports which heavy packages were loaded all the same.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feedfast.scorer import Request, Scorer

_HEAVY = ("tensorflow", "xgboost", "pyarrow", "sklearn")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """What the serving process reports.

    Attributes:
        objectives: Names, in the order of the columns of `probabilities`.
        probabilities: [candidates, objectives] of the first request.
        score, order: [candidates] of the first request.
        open_ms: Time to open the store.
        latency_ms: [repeats], each call of `score` on the last request.
        heavy_packages: Packages that a serving process should not load and that were loaded.
    """

    objectives: list[str]
    probabilities: NDArray[np.float32]
    score: NDArray[np.float32]
    order: NDArray[np.int64]
    open_ms: float
    latency_ms: NDArray[np.float64]
    heavy_packages: list[str]


def rank_in_new_process(
    store: Path, model: str, requests: list[Request], *, repeats: int, scratch: Path
) -> Ranking:
    """Ranks `requests[0]` and times `requests[-1]` in a process of its own.

    Args:
        store, model: What to open.
        requests: At least one.
        repeats: Timed calls, after a tenth as many untimed ones.
        scratch: Folder for the file that hands the requests over.

    Raises:
        RuntimeError: The process failed; the message carries its last line.
    """
    path = scratch / "requests.pickle"
    path.write_bytes(pickle.dumps(requests))
    command = [sys.executable, "-m", __spec__.name, str(store), model, str(path), str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    path.unlink()
    if done.returncode != 0:
        last_line = done.stderr.strip().splitlines()[-1:]
        raise RuntimeError(f"the serving process failed: {' '.join(last_line)}")
    report = json.loads(done.stdout)
    return Ranking(
        objectives=report["objectives"],
        probabilities=np.asarray(report["probabilities"], dtype=np.float32),
        score=np.asarray(report["score"], dtype=np.float32),
        order=np.asarray(report["order"], dtype=np.int64),
        open_ms=report["open_ms"],
        latency_ms=np.asarray(report["latency_ms"]),
        heavy_packages=report["heavy_packages"],
    )


def _serve(store: str, model: str, requests: list[Request], repeats: int) -> dict[str, object]:
    before = time.perf_counter()
    scorer = Scorer.open(store, model=model)
    open_ms = (time.perf_counter() - before) * 1e3
    result = scorer.score(requests[0])
    for _ in range(max(repeats // 10, 1)):
        scorer.score(requests[-1])
    latency_ms = []
    for _ in range(repeats):
        before = time.perf_counter()
        scorer.score(requests[-1])
        latency_ms.append((time.perf_counter() - before) * 1e3)
    return {
        "objectives": list(result.objectives),
        "probabilities": result.probabilities.tolist(),
        "score": result.score.tolist(),
        "order": result.order.tolist(),
        "open_ms": open_ms,
        "latency_ms": latency_ms,
        "heavy_packages": [name for name in _HEAVY if name in sys.modules],
    }


if __name__ == "__main__":
    _store, _model, _requests, _repeats = sys.argv[1:]
    _report = _serve(_store, _model, pickle.loads(Path(_requests).read_bytes()), int(_repeats))
    print(json.dumps(_report))
