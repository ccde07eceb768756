"""Columns of requests as the native scorer takes them: checked, and copied only where they must."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from feedfast.bags import as_float32
from feedfast.request import ArrowLists, KeyBags, Request, RequestBatch


def num_keys(name: str, keys: object) -> int:
    """Length of a column of keys.

    Raises:
        TypeError: It is no column.
    """
    if isinstance(keys, str | bytes):  # a column of its letters otherwise
        raise TypeError(f"{name} must be a column of keys; got one {type(keys).__name__}")
    try:
        return len(keys)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be keys with a length; got {type(keys).__name__}") from None


def batch_of_one(request: Request) -> tuple[RequestBatch, NDArray[np.int64]]:
    """The request as a batch, with its candidate offsets."""
    offsets = np.array([0, num_keys("item", request.item)], dtype=np.int64)
    batch = RequestBatch(
        candidate_offsets=offsets,
        viewer=None if request.viewer is None else [request.viewer],
        history_members=_bag_of_one("history_members", request.history_members),
        history_hashtags=_bag_of_one("history_hashtags", request.history_hashtags),
        shared=_row_of_one(request.shared),
        item=request.item,
        actor=request.actor,
        root_actor=request.root_actor,
        hashtags=request.hashtags,
        dense=request.dense,
    )
    return batch, offsets


def _bag_of_one(name: str, keys: Any) -> KeyBags | None:
    return None if keys is None else (keys, [0, num_keys(name, keys)])


def _row_of_one(features: Any) -> Any:
    if features is None:
        return None
    if isinstance(features, Mapping):
        return {name: [value] for name, value in features.items()}
    return as_float32("shared", features)[np.newaxis]


def _offsets(name: str, offsets: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(offsets)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size > 0):
        raise ValueError(
            f"{name} must be integers with 1 dimension; got {array.dtype} of shape {array.shape}"
        )
    return np.ascontiguousarray(array, dtype=np.int64)


def checked_candidate_offsets(offsets: ArrayLike, num_items: int) -> NDArray[np.int64]:
    """Checked offsets: columns are sized by them before the native checks."""
    name = "candidate_offsets"
    array = _offsets(name, offsets)
    if array.size == 0:
        raise ValueError(f"{name} is empty; one more value than requests is needed")
    if array[0] != 0:
        raise ValueError(f"{name}[0] = {array[0]}; must be 0")
    falls = np.flatnonzero(array[1:] < array[:-1])
    if falls.size:
        at = int(falls[0]) + 1
        raise ValueError(f"{name}[{at}] = {array[at]} is below {name}[{at - 1}] = {array[at - 1]}")
    if array[-1] != num_items:
        raise ValueError(f"{name}[{array.size - 1}] = {array[-1]}; item has {num_items} keys")
    return array


def keys_and_offsets(
    name: str, offsets_name: str, bags: KeyBags | None, num_bags: int
) -> tuple[Any, NDArray[np.int64]]:
    """(keys or None, offsets [bags + 1]); the native scorer checks what the offsets say."""
    if bags is None:
        return None, np.zeros(num_bags + 1, dtype=np.int64)
    if isinstance(bags, tuple) and len(bags) == 2:
        return bags[0], _offsets(offsets_name, bags[1])
    if isinstance(bags, list):
        lengths = [num_keys(f"{name}[{i}]", bag) for i, bag in enumerate(bags)]
        return [key for bag in bags for key in bag], _ends(lengths)
    if isinstance(bags, ArrowLists):
        return bags.flatten(), _ends(bags.value_lengths().fill_null(0))
    raise TypeError(
        f"{name} must be a pair (keys, offsets), a list of lists or an Arrow array of lists; "
        f"got {type(bags).__name__}"
    )


def _ends(lengths: Any) -> NDArray[np.int64]:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(np.asarray(lengths, dtype=np.int64), out=offsets[1:])
    return offsets


def feature_table(
    name: str, features: Any, names: tuple[str, ...], num_rows: int
) -> NDArray[np.float32]:
    """[num_rows, len(names)], NaN where nothing is given; the array given where it is that."""
    shape = (num_rows, len(names))
    if features is None:
        return np.full(shape, np.nan, dtype=np.float32)
    if not isinstance(features, Mapping):
        array = as_float32(name, features)
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}; expected {shape}")
        return array
    table = np.full(shape, np.nan, dtype=np.float32)
    for key, column in features.items():
        if key not in names:
            raise ValueError(f"{name}: {key!r} is not a feature; allowed: {', '.join(names)}")
        values = as_float32(f"{name}[{key!r}]", column)
        if values.shape != (num_rows,):
            raise ValueError(f"{name}[{key!r}] has shape {values.shape}; expected {(num_rows,)}")
        table[:, names.index(key)] = values
    return table
