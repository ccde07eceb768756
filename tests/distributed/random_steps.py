"""One rank of a long run of random steps: any k, sizes, weights, wire, shapes and errors.

Usage: random_steps.py FOLDER NUM_STEPS [SEED]. Run by `test_random_steps.py`, and by hand:

    python -c "from feedfast.comm.launch import run_local; import sys; sys.exit(run_local(
        [sys.executable, 'tests/distributed/random_steps.py', '/tmp', '10000'], 4))"

Ranks draw the shape of each window from a seed that they share, and their gradients from their
own. At the end of every window all have the same bits, and a sum by hand now and then.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

from feedfast.comm import Engine, connect
from feedfast.tf.distributed.window import GradientSlot, GradientWindow


def make_window(engine: Engine, shared: np.random.Generator) -> tuple[GradientWindow, int]:
    k = int(shared.integers(1, 9))
    slots = []
    for index in range(int(shared.integers(1, 7))):
        sparse = bool(shared.random() < 0.5)
        rank = int(shared.integers(1 if sparse else 0, 3))
        shape = tuple(int(size) for size in shared.integers(1, 200, rank))
        local = bool(shared.random() < 0.15)
        slots.append(GradientSlot(name=f"v{index}", shape=shape, sparse=sparse, local=local))
    clip_norm = float(shared.random() + 0.1) if shared.random() < 0.3 else None
    wire: Any = "bf16" if shared.random() < 0.2 else "exact"
    window = GradientWindow(slots, engine=engine, k=k, clip_norm=clip_norm, wire=wire)
    return window, k


def draw(slots: tuple[GradientSlot, ...], own: np.random.Generator) -> list[Any]:
    gradients: list[Any] = []
    for slot in slots:
        if not slot.sparse:
            gradients.append(own.standard_normal(slot.shape, dtype=np.float32))
            continue
        num_rows = int(slot.shape[0] or 0)
        rows = own.integers(0, num_rows, int(own.choice([0, 1, 5, 3 * num_rows])))
        gradients.append((rows, own.standard_normal((len(rows), slot.dim), dtype=np.float32)))
    return gradients


def one_window(window: GradientWindow, k: int, own: np.random.Generator, digest: Any) -> None:
    for _ in range(k):
        window.add(draw(window.slots, own), weight=float(own.choice([0.0, 1.0, 1.0, 2.0])))
    for slot, gradient in zip(window.slots, window.exchange(), strict=True):
        arrays = gradient if isinstance(gradient, tuple) else (gradient,)
        assert all(np.isfinite(array).all() for array in arrays)
        if not slot.local:
            for array in arrays:
                digest.update(array.tobytes())


def main(folder: str, num_steps: str, seed: str = "0") -> None:
    engine = connect()
    shared = np.random.default_rng([int(seed)])
    own = np.random.default_rng([int(seed), engine.rank])
    digest = hashlib.sha256()
    steps = 0
    while steps < int(num_steps):
        window, k = make_window(engine, shared)
        for _ in range(int(shared.integers(1, 6))):
            if shared.random() < 0.1:  # given up by all
                window.add(draw(window.slots, own), weight=1.0)
                window.discard()
            one_window(window, k, own, digest)
            steps += k
    (Path(folder) / f"{engine.rank}.digest").write_text(f"{steps} {digest.hexdigest()}")
    engine.barrier()
    engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
