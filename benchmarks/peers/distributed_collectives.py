"""One of the processes in which collectives over shared memory and over Horovod run in turns.

Started by horovodrun; rank 0 prints {"measured": [{"call", "bytes", "ours", "peer"}, ...]}: seconds
of the slower process per call, one per round.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from feedfast.comm import Engine, SharedMemoryEngine

Call = Callable[[], object]


def main(group: str, sizes: str, seconds: str) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    hvd.init()
    engine = SharedMemoryEngine(group, rank=hvd.rank(), size=hvd.size())
    results = []
    for size in map(int, sizes.split(",")):
        for call, (ours, peer) in calls(engine, size).items():
            # Short calls go in runs, so that a time is not that of the way back from the barrier.
            run = 8 if size <= 1 << 20 else 1
            times = in_turns(engine, ours, peer, run, float(seconds))
            results.append({"call": call, "bytes": size, "ours": times[0], "peer": times[1]})
    if engine.rank == 0:
        sys.stdout.write(json.dumps({"measured": results}) + "\n")
    engine.close()
    hvd.shutdown()


def calls(engine: Engine, num_bytes: int) -> dict[str, tuple[Call, Call]]:
    """What is measured, for arrays of so many bytes in each process."""
    array = np.ones(num_bytes // 4, np.float32)
    tensor = tf.constant(array)
    half = array.size // engine.size
    parts = [array[half * rank : half * (rank + 1)] for rank in range(engine.size)]
    splits = tf.constant([half] * engine.size)
    # numpy to numpy on both sides: a TensorFlow tensor on the host is read without a copy.
    return {
        "all_reduce": (
            lambda: engine.all_reduce(array),
            lambda: hvd.allreduce(tensor, op=hvd.Sum, name=f"reduce{num_bytes}").numpy(),
        ),
        "all_gather": (
            lambda: engine.all_gather(array),
            lambda: hvd.allgather(tensor, name=f"gather{num_bytes}").numpy(),
        ),
        "all_to_all": (
            lambda: engine.all_to_all(parts),
            lambda: hvd.alltoall(tensor, splits=splits, name=f"all{num_bytes}")[0].numpy(),
        ),
    }


def in_turns(engine: Engine, ours: Call, peer: Call, run: int, seconds: float) -> list[list[float]]:
    """Seconds per call of the slower process, of both, in runs of calls; at least 7 rounds."""
    times: list[list[float]] = [[], []]
    for _ in range(2):
        ours(), peer()
    end = time.perf_counter() + seconds
    goes_on = np.ones(1)
    while goes_on[0]:
        for function, taken in zip((ours, peer), times, strict=True):
            engine.barrier()
            begin = time.perf_counter()
            for _ in range(run):
                function()
            mine = np.array([(time.perf_counter() - begin) / run])
            taken.append(max(float(each[0]) for each in engine.all_gather(mine)))
        goes_on[0] = len(times[0]) < 7 or time.perf_counter() < end
        engine.broadcast(goes_on)
    return times


if __name__ == "__main__":
    main(*sys.argv[1:])
