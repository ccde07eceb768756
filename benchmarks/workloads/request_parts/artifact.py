"""Bytes of the artifact by section, and resident memory, beside the SavedModel of the same model.

The SavedModel is told apart into variables by table, the keys of its `StaticHashTable`s, which are
its assets, and xgboost's model file, which it needs too.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import request_model
import request_tensorflow

from feedfast import ModelStore
from feedfast.bench import BenchOptions, BenchRow, row

from . import common

PRECISIONS = (*common.PRECISIONS, "mixed", "int4")
TARGET = 1 / 4
CANDIDATES = 500
MEMORY = Path(request_model.__file__).with_name("request_memory.py")


def run(options: BenchOptions) -> Iterator[BenchRow]:
    request_tensorflow.configure(options.threads)
    model = request_model.build(threads=options.threads, quick=options.quick)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        request_tensorflow.save(
            request_tensorflow.Ranker(model, folder, tuned=False), folder / "saved_model"
        )
        model.booster.save_model(folder / "forest.ubj")
        peer = peer_sections(model, folder)
        common.open_scorers(folder / "store", model.artifact, options, PRECISIONS)
        for precision in PRECISIONS:
            yield from _size_rows(folder / "store", precision, peer)
        requests = common.make_requests(model, CANDIDATES, 4 if options.quick else 32)
        (folder / "requests.pickle").write_bytes(pickle.dumps(requests))
        theirs = _memory("tensorflow", folder / "saved_model", folder / "forest.ubj", folder)
        for precision in PRECISIONS:
            ours = _memory("feedfast", folder / "store", precision, folder)
            for kind in ("resident", "private"):
                yield row(
                    f"request/memory/precision={precision}/{kind}",
                    ours[kind],
                    "bytes",
                    peer=request_tensorflow.NAME,
                    peer_value=theirs[kind],
                    target=TARGET,
                )


def peer_sections(model: request_model.Model, folder: Path) -> dict[str, int]:
    """Bytes of the SavedModel and the booster, under the names of our sections."""
    saved, artifact = folder / "saved_model", model.artifact
    sizes = {
        "member_table": artifact.member_table.nbytes,
        "hashtag_table": artifact.hashtag_table.nbytes,
        "leaf_table": artifact.leaf_table.nbytes,
        "member_vocabulary": (saved / "assets" / "members.txt").stat().st_size,
        "hashtag_vocabulary": (saved / "assets" / "hashtags.txt").stat().st_size,
        "forest": (folder / "forest.ubj").stat().st_size,
    }
    total = sizes["forest"] + sum(
        path.stat().st_size for path in saved.rglob("*") if path.is_file()
    )
    # Variables of the towers, the graph and its checkpoint's index.
    return sizes | {"towers": total - sum(sizes.values()), "total": total}


def _size_rows(store: Path, precision: str, peer: dict[str, int]) -> Iterator[BenchRow]:
    sizes = {s.name: s.num_bytes for s in ModelStore(store).open(precision).section_sizes()}
    total = sum(sizes.values())
    ours = {name: sizes.pop(name) for name in peer if name not in ("towers", "total")}
    # The towers and everything small.
    ours |= {"towers": sum(sizes.values()), "total": total}
    for section, num_bytes in ours.items():
        yield row(
            f"request/artifact/precision={precision}/{section}",
            num_bytes,
            "bytes",
            peer="SavedModel and xgboost's model",
            peer_value=peer[section],
            target=TARGET if section == "total" else None,
        )


def _memory(kind: str, model: Path, second: object, folder: Path) -> dict[str, int]:
    done = subprocess.run(
        [
            sys.executable,
            str(MEMORY),
            kind,
            str(model),
            str(second),
            str(folder / "requests.pickle"),
        ],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, int] = json.loads(done.stdout)
    return found
