"""String keys and bags of them (the CSR form of list columns), before keys become table rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


class KeyBags(NamedTuple):
    """One list of keys per row: row i holds `values[offsets[i]:offsets[i + 1]]`.

    Attributes:
        values: pyarrow array of keys, [nnz]; plain or dictionary-encoded, never null.
        offsets: [rows + 1] int64, ascending, offsets[0] = 0 and offsets[-1] = nnz.
    """

    values: pa.Array
    offsets: NDArray[np.int64]

    @property
    def num_bags(self) -> int:
        """Number of bags, which is the number of rows they belong to."""
        return len(self.offsets) - 1

    def lengths(self) -> NDArray[np.int64]:
        """[rows] int64, keys in each bag."""
        return np.diff(self.offsets)

    def take_bags(self, indices: NDArray[np.int64]) -> KeyBags:
        """The bags at `indices`, in that order; the caller has checked their range."""
        lengths = self.lengths()[indices]
        offsets = offsets_from_lengths(lengths)
        return KeyBags(
            self.values.take(pa.array(expand_ranges(self.offsets[:-1][indices], lengths))), offsets
        )

    def rows(self, lookup: Callable[[pa.Array], NDArray[np.int64]]) -> NDArray[np.int64]:
        """`lookup(values)`, calling it once per distinct key when the values are
        dictionary-encoded.

        Args:
            lookup: Keys [n] to table rows [n], such as `Vocabulary.lookup`.

        Returns:
            [nnz] int64.
        """
        if not pa.types.is_dictionary(self.values.type):
            return lookup(self.values)
        rows: NDArray[np.int64] = lookup(self.values.dictionary)[to_numpy(self.values.indices)]
        return rows

    def decoded(self) -> KeyBags:
        """The same bags with plain, not dictionary-encoded, values."""
        if not pa.types.is_dictionary(self.values.type):
            return self
        return KeyBags(self.values.dictionary_decode(), self.offsets)


def to_numpy(array: pa.Array) -> NDArray[Any]:
    """The array's values without copying where its layout allows that; null becomes NaN or None."""
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values


def offsets_from_lengths(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """[n + 1] int64 running sum of lengths, starting at 0."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def expand_ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Concatenated ranges [starts[i], starts[i] + lengths[i]), [sum(lengths)] int64."""
    shift = starts - offsets_from_lengths(lengths)[:-1]
    return np.repeat(shift, lengths) + np.arange(int(lengths.sum()), dtype=np.int64)


def key_codes(keys: pa.Array) -> NDArray[np.int64]:
    """[n] int64: equal keys get equal codes, numbered by first occurrence."""
    if pa.types.is_dictionary(keys.type):
        keys = keys.dictionary_decode()
    codes: NDArray[np.int64] = to_numpy(keys.dictionary_encode().indices).astype(np.int64)
    return codes


def join_keys(
    *parts: pa.Array | pa.ChunkedArray | NDArray[np.int64] | str, separator: str = ":"
) -> pa.Array:
    """Keys put together element by element, such as join_keys("movie", numbers) for movie:<number>.

    Args:
        parts: Arrays of one length, of strings or integers, and strings that all keys share; at
            least one array.
        separator: Between two parts.

    Returns:
        [n] large_string.
    """
    texts = [
        pa.scalar(part, pa.large_string())
        if isinstance(part, str)
        else (pa.array(part) if isinstance(part, np.ndarray) else part).cast(pa.large_string())
        for part in parts
    ]
    return pc.binary_join_element_wise(*texts, pa.scalar(separator, pa.large_string()))
