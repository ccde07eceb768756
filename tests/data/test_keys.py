from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from feedfast.data.keys import (
    KeyBags,
    expand_ranges,
    join_keys,
    key_codes,
    offsets_from_lengths,
)


def test_expand_ranges() -> None:
    starts, lengths = np.array([5, 0, 7, 2]), np.array([2, 0, 1, 3])
    np.testing.assert_array_equal(expand_ranges(starts, lengths), [5, 6, 7, 2, 3, 4])
    np.testing.assert_array_equal(offsets_from_lengths(lengths), [0, 2, 2, 3, 6])
    assert len(expand_ranges(starts[:0], lengths[:0])) == 0


@pytest.mark.parametrize("as_dictionary", [False, True])
def test_take_bags(as_dictionary: bool) -> None:
    values = pa.array(["a", "b", "c"])
    bags = KeyBags(values.dictionary_encode() if as_dictionary else values, np.array([0, 2, 2, 3]))
    taken = bags.take_bags(np.array([2, 0, 1, 2]))
    assert taken.num_bags == 4
    assert taken.values.to_pylist() == ["c", "a", "b", "c"]
    np.testing.assert_array_equal(taken.offsets, [0, 1, 3, 3, 4])
    assert taken.decoded().values.type == pa.string()


def test_key_codes_follow_first_occurrence() -> None:
    keys = pa.array([b"x", b"\xff", b"x", b""])
    for array in (keys, keys.dictionary_encode(), pa.array(["b", "x", "\xff", "x", ""]).slice(1)):
        np.testing.assert_array_equal(key_codes(array), [0, 1, 0, 2])


def test_join_keys() -> None:
    joined = join_keys("a", np.array([7, -1]), pa.chunked_array([["x"], ["y"]]), "z")
    assert joined.to_pylist() == ["a:7:x:z", "a:-1:y:z"]
    assert join_keys("movie", np.array([], dtype=np.int64)).to_pylist() == []
