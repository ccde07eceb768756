"""Which keys of a log occur often enough to have a table row of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa


def frequent_keys(columns: Sequence[pa.Array], *, min_count: int) -> pa.Array:
    """Distinct keys that one of the columns holds at least `min_count` times.

    Columns are counted apart, so that a key in two roles of one row is not counted twice.

    Args:
        columns: At least one array of keys, all of one type, none null; dictionaries are decoded.
        min_count: >= 1.

    Returns:
        [keys] in order of first occurrence, column after column.
    """
    plain = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in columns]
    encoded = pa.concat_arrays(plain).dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    most = np.zeros(len(encoded.dictionary), dtype=np.int64)
    end = 0
    for column in plain:
        start, end = end, end + len(column)
        np.maximum(most, np.bincount(codes[start:end], minlength=len(most)), out=most)
    return encoded.dictionary.take(pa.array(np.flatnonzero(most >= min_count)))
