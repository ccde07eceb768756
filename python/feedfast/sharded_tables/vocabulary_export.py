"""One whole vocabulary, such as serving reads, out of the parts of a divided one.

An image cannot be put together from those of parts, but it can be built from the codes that the
parts keep, without the keys. Rank 0 streams them from all ranks into a `build_external`; the rows
are those of the divided table, so they are stored, which takes log2(rows) bits a key.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from feedfast import _core
from feedfast.sharded_tables.agreement import all_or_none
from feedfast.sharded_tables.key_codes import Codes
from feedfast.sharded_tables.sharded_vocabulary import ShardedVocabulary
from feedfast.store import files
from feedfast.vocab import Preset


def export_vocabulary(
    vocabulary: ShardedVocabulary,
    path: Path,
    *,
    fingerprint_bits: Literal[0, 8, 16, 32] = 16,
    preset: Preset = "compact",
    buffer_bytes: int = 256 << 20,
    threads: int = 1,
    chunk_keys: int = 1 << 20,
) -> None:
    """Writes one vocabulary of all keys with their rows, on rank 0; collective.

    The file is that of `Vocabulary.build(keys, rows=vocabulary.lookup(keys), seed=vocabulary.seed)`
    to the byte. Rank 0 needs the memory and disk of `Vocabulary.build_external`, the others 16
    bytes for each key of a chunk.

    Args:
        vocabulary: The vocabulary.
        path: File of rank 0 to write durably; temporary data go beside it.
        fingerprint_bits, preset, buffer_bytes, threads: As in `Vocabulary.build_external`.
        chunk_keys: Keys that every rank sends at once.

    Raises:
        OSError: A disk is full, or a file cannot be read or written.
        ValueError: The codes of a part are not those of its image: a file is damaged; or an
            argument is out of range.
        RuntimeError: One of these on another rank.
    """
    engine = vocabulary.engine
    chunks = _codes_and_rows(vocabulary, chunk_keys)
    nothing = np.empty((0, 2), np.uint64)
    received: list[Codes] = []
    with contextlib.ExitStack() as unfinished:

        def begin() -> tuple[_core.ExternalBuild, Path] | None:
            if engine.rank != 0:
                return None
            files.remove_abandoned(path)
            target = unfinished.enter_context(files.replacing(path))
            build = _core.ExternalBuild(
                fingerprint_bits=fingerprint_bits,
                preset=preset,
                with_rows=True,
                of_codes=True,
                threads=threads,
                seed=vocabulary.seed,
                buffer_bytes=buffer_bytes,
                spill_folder=os.fsencode(path.parent),
                progress=None,
            )
            return build, target

        started, _ = all_or_none(engine, "vocabulary_export", begin, share=lambda _: "")

        def step() -> Codes | None:
            for chunk in received:
                if started is not None:
                    codes, rows = np.ascontiguousarray(chunk.T)
                    started[0].add(codes, rows.view(np.int64))
            received.clear()
            return next(chunks, None)

        while True:
            chunk, texts = all_or_none(
                engine,
                "vocabulary_export_batch",
                step,
                share=lambda chunk: "" if chunk is None else "more",
            )
            if not any(texts):
                break
            parts = [nothing if chunk is None else chunk] + [nothing] * (engine.size - 1)
            received = engine.all_to_all(parts, name="vocabulary_export_codes")

        def finish() -> None:
            if started is not None:
                build, target = started
                build.finish(os.fsencode(target))
            unfinished.close()  # puts the file into place

        all_or_none(engine, "vocabulary_export", finish, share=lambda _: "")


def _codes_and_rows(vocabulary: ShardedVocabulary, chunk_keys: int) -> Iterator[Codes]:
    """The codes of this rank's keys with their rows, [n, 2]."""
    for number, part in vocabulary.parts.items():
        codes = part.codes()
        for begin in range(0, len(part), chunk_keys):
            chunk = np.array(codes[begin : begin + chunk_keys])
            rows = part.find(chunk)
            if rows.size and rows.min() < 0:
                position = begin + int(np.argmin(rows))
                raise ValueError(
                    f"{part.codes_name}: code {position} is not in the image beside it"
                )
            rows += vocabulary.first_rows[number]
            yield np.stack([chunk, rows.view(np.uint64)], axis=1)
