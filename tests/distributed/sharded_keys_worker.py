"""One process of `test_sharded_keys.py`: builds, saves, opens and looks up, in real processes.

Arguments: a folder for the vocabulary and, of rank 0, what was found.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from feedfast.comm import connect
from feedfast.sharded_tables import (
    KeyBags,
    RowOptimization,
    ShardedTables,
    ShardedVocabulary,
    TableSpec,
)
from feedfast.sharded_tables.vocabulary_folder import open_vocabulary, save_vocabulary
from feedfast.sharding import ShardingPlan, TableShape

KEYS, DIM, STEPS = 20_000, 8, 3


def main(folder: Path) -> None:
    keys = np.array([b"member %d" % i for i in range(KEYS)])
    with connect() as engine:
        half = keys[engine.rank :: engine.size]
        batches = [half[:7000], half[5000:], keys[:500]]
        built = ShardedVocabulary.build(batches, engine, chunk_keys=3000)
        save_vocabulary(built, folder / "vocabulary")
        vocabulary = open_vocabulary(folder / "vocabulary", engine, verify="full")
        rows = vocabulary.lookup(keys)
        shape = TableShape(name="t", rows=KEYS + 1, dim=DIM)
        plan = ShardingPlan(
            num_ranks=engine.size,
            ranks_per_host=1,
            tables=(shape,),
            placements=(vocabulary.placement(shape),),
        )
        sgd = RowOptimization(rule="sgd", learning_rate=1.0)
        spec = TableSpec(name="t", rows=KEYS + 1, dim=DIM, optimizer=sgd)
        tables = ShardedTables([spec], plan, engine, vocabularies={"t": vocabulary})
        for _ in range(STEPS):  # every key once on each rank, and unknown ones
            asked = np.concatenate([keys, [b"x", b"y"]])
            (found,) = tables.lookup([KeyBags(asked, np.array([0, asked.size]))])
            tables.accumulate([found.ids], [np.ones_like(found.rows)])
            tables.exchange_window(1 / engine.size)
            tables.apply_window(1.0)
        first = spec.initializer("t", 0, KEYS + 1, DIM)
        moved = [
            float(np.abs(part.weights - (first[p.row_begin : p.row_end] - STEPS)).max())
            for p, part in [*tables.parts.items(), *tables.replicas.items()]
        ]
        said = {
            "rows": sorted(rows.tolist()) == list(range(1, KEYS + 1)),
            "error": max(moved),
            "nbytes": vocabulary.nbytes,
            "exchanges": {n: t.exchanges for n, t in engine.exchanges_by_name.items()},
        }
        texts = engine.all_gather(np.frombuffer(json.dumps(said).encode(), np.uint8), name="said")
        if engine.rank == 0:
            found_of_ranks = [json.loads(text.tobytes()) for text in texts]
            (folder / "found.json").write_text(json.dumps(found_of_ranks))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
