"""A digest of a log's content, to tell whether two runs saw the same data."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

from feedfast.data.dataset import Dataset
from feedfast.data.schema import ID_COLUMNS


def fingerprint(dataset: Dataset) -> str:
    """sha256 over every column, the objectives and the superset, as 64 hexadecimal digits.

    It depends on content alone: not on the file it came from, nor on how Arrow holds the keys.
    """
    log = dataset.log
    digest = hashlib.sha256()
    digest.update(repr((dataset.objectives, dataset.superset)).encode())
    digest.update(repr((log.shared_names, log.dense_names)).encode())
    for name in ID_COLUMNS:
        _add_keys(digest, getattr(log, name))
    digest.update(log.hashtags.offsets.tobytes())
    _add_keys(digest, log.hashtags.values)
    for column in (
        log.timestamp,
        log.position,
        log.policy_random,
        log.propensity,
        log.shared,
        log.dense,
        log.labels,
    ):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def _add_keys(digest: hashlib._Hash, keys: pa.Array) -> None:
    """Lengths, then bytes; so no two lists of keys have one digest."""
    if pa.types.is_dictionary(keys.type):
        keys = keys.dictionary_decode()
    keys = keys.cast(pa.large_binary())
    _, offset_buffer, data = keys.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[keys.offset : keys.offset + len(keys) + 1]
    digest.update(np.diff(offsets).tobytes())
    if data is not None and len(offsets) > 0:
        digest.update(memoryview(data)[offsets[0] : offsets[-1]])
