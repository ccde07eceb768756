"""Every way to hand strings to the native code gives the same rows."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import feedfast as ff

pa = pytest.importorskip("pyarrow")

WORDS = ["", "a", "ä", "日本語", "🙂", "twelve bytes", "thirteen byte", "x" * 300]
KEYS = [*WORDS, *(f"urn:li:member:{i}" for i in range(1000))]


@pytest.fixture(scope="module")
def vocabulary() -> ff.Vocabulary:
    return ff.Vocabulary.build(KEYS, rows=np.arange(1, len(KEYS) + 1))


def chunked(keys: list[str]) -> Any:
    return pa.chunked_array([keys[:300], [], keys[300:301], keys[301:], []], type=pa.string())


CONTAINERS = {
    "list": list,
    "tuple": tuple,
    "bytes": lambda keys: [key.encode() for key in keys],
    "mixed": lambda keys: [key.encode() if i % 2 else key for i, key in enumerate(keys)],
    "numpy_S": lambda keys: np.array([key.encode() for key in keys]),
    "numpy_U": lambda keys: np.array(keys),
    "numpy_U_big_endian": lambda keys: np.array(keys).astype(">U300"),
    "numpy_object": lambda keys: np.array(keys, dtype=object),
    "arrow_string": lambda keys: pa.array(keys, pa.string()),
    "arrow_large_string": lambda keys: pa.array(keys, pa.large_string()),
    "arrow_string_view": lambda keys: pa.array(keys, pa.string_view()),
    "arrow_binary": lambda keys: pa.array([key.encode() for key in keys], pa.binary()),
    "arrow_large_binary": lambda keys: pa.array([k.encode() for k in keys], pa.large_binary()),
    "arrow_dictionary": lambda keys: pa.array(keys).dictionary_encode(),
    "arrow_chunked": chunked,
    "arrow_chunked_dictionary": lambda keys: chunked(keys).dictionary_encode(),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_agree(vocabulary: ff.Vocabulary, container: str) -> None:
    keys = CONTAINERS[container](KEYS)
    np.testing.assert_array_equal(vocabulary.lookup(keys), np.arange(1, len(KEYS) + 1))
    built = ff.Vocabulary.build(keys)
    np.testing.assert_array_equal(built.lookup(KEYS), ff.Vocabulary.build(KEYS).lookup(KEYS))
    # Sliced and strided views; a slice of a chunked array starts inside a chunk.
    np.testing.assert_array_equal(vocabulary.lookup(keys[5:700]), np.arange(6, 701))
    if container.startswith("numpy"):
        np.testing.assert_array_equal(vocabulary.lookup(keys[::7]), np.arange(1, 1009, 7))


@pytest.mark.parametrize("container", CONTAINERS)
def test_empty_containers(vocabulary: ff.Vocabulary, container: str) -> None:
    keys = CONTAINERS[container](KEYS)[:0]
    assert vocabulary.lookup(keys).shape == (0,)
    assert len(ff.Vocabulary.build(keys)) == 0


def test_untyped_empty_arrow_array_is_empty(vocabulary: ff.Vocabulary) -> None:
    assert vocabulary.lookup(pa.array([])).shape == (0,)


@pytest.mark.parametrize(
    "index_type", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
)
def test_every_dictionary_index_type(vocabulary: ff.Vocabulary, index_type: str) -> None:
    indices = pa.array([3, 0, 3, 7], getattr(pa, index_type)())
    keys = pa.DictionaryArray.from_arrays(indices, WORDS)
    np.testing.assert_array_equal(vocabulary.lookup(keys), [4, 1, 4, 8])


def test_polars_and_pandas_series(vocabulary: ff.Vocabulary) -> None:
    for module in ("polars", "pandas"):
        library = pytest.importorskip(module)
        series = library.Series(KEYS)
        if not hasattr(series, "__arrow_c_stream__"):
            continue
        np.testing.assert_array_equal(vocabulary.lookup(series), np.arange(1, len(KEYS) + 1))


def test_trailing_nuls_of_numpy_items_are_padding(vocabulary: ff.Vocabulary) -> None:
    padded = np.array([b"a\x00", b"a\x00b", b"a"], dtype="S9")
    np.testing.assert_array_equal(vocabulary.lookup(padded), [2, 0, 2])
    np.testing.assert_array_equal(vocabulary.lookup(padded.astype("U20")), [2, 0, 2])


def test_padding_ends_at_any_byte(vocabulary: ff.Vocabulary) -> None:
    keys = [bytes([1 + i % 250] * (i % 21)) + bytes(i % 3) for i in range(1, 500)]
    for width in (20, 23, 24, 31):
        padded = np.array(keys, dtype=f"S{width}")
        np.testing.assert_array_equal(vocabulary.lookup(padded), vocabulary.lookup(padded.tolist()))


@pytest.mark.parametrize("container", CONTAINERS)
def test_threads_change_nothing(vocabulary: ff.Vocabulary, container: str) -> None:
    keys = CONTAINERS[container](KEYS * 40)
    assert len(keys) > 2 * 16_384
    want = np.tile(np.arange(1, len(KEYS) + 1), 40)
    for threads in (1, 2, 5):
        np.testing.assert_array_equal(vocabulary.lookup(keys, threads=threads), want)


def test_threads_are_at_least_one(vocabulary: ff.Vocabulary) -> None:
    with pytest.raises(ValueError, match="threads must be at least 1; got 0"):
        vocabulary.lookup(["a"], threads=0)


def test_dictionaries_smaller_and_larger_than_the_batch(vocabulary: ff.Vocabulary) -> None:
    words = pa.array([*KEYS, "unknown"])
    for size in (0, 1, 7, len(words) - 1, len(words), 5000):
        indices = np.random.default_rng(size).integers(len(words), size=size)
        keys = pa.DictionaryArray.from_arrays(indices, words)
        want = np.where(indices == len(KEYS), 0, indices + 1)
        np.testing.assert_array_equal(vocabulary.lookup(keys), want)
        np.testing.assert_array_equal(vocabulary.lookup(keys[3:]), want[3:])
        # Each chunk brings its own dictionary.
        other = pa.DictionaryArray.from_arrays([1, 0], pa.array(["a", "nobody"]))
        chunks = pa.chunked_array([keys, other, keys])
        np.testing.assert_array_equal(vocabulary.lookup(chunks), [*want, 0, 2, *want])
        # So that chunks share a dictionary, and slices of it.
        shared = pa.chunked_array([keys, keys[3:], keys])
        np.testing.assert_array_equal(vocabulary.lookup(shared), [*want, *want[3:], *want])
        tail = pa.DictionaryArray.from_arrays([0], words[1:])
        np.testing.assert_array_equal(
            vocabulary.lookup(pa.chunked_array([keys, tail, keys])), [*want, 2, *want]
        )


def test_null_words_that_no_key_has_are_not_read(vocabulary: ff.Vocabulary) -> None:
    words = pa.array(["a", None, "unknown"])
    keys = pa.DictionaryArray.from_arrays([0, 2] * 5, words)
    np.testing.assert_array_equal(vocabulary.lookup(keys), [2, 0] * 5)


@pytest.mark.parametrize("index", [-1, 2, 120])
def test_dictionary_indexes_are_checked(vocabulary: ff.Vocabulary, index: int) -> None:
    indices = pa.array([0] * 700 + [index], pa.int8())
    keys = pa.DictionaryArray.from_arrays(indices, pa.array(["a", "ä"]), safe=False)
    with pytest.raises(
        IndexError, match=rf"keys\[700\] has dictionary index {index} in a dictionary of 2"
    ):
        vocabulary.lookup(keys)


NULLS = {
    "string": lambda: pa.array(["a", None, "b"]),
    "view": lambda: pa.array(["a", None], pa.string_view()),
    "sliced": lambda: pa.array(["a"] * 9 + [None])[8:],
    "second chunk": lambda: pa.chunked_array([["a"], [None]]),
    "dictionary index": lambda: pa.array(["a", None, "b"]).dictionary_encode(),
    "dictionary word": lambda: pa.DictionaryArray.from_arrays([1, 0], pa.array([None, "a"])),
}


@pytest.mark.parametrize("kind", NULLS)
def test_nulls_are_named(vocabulary: ff.Vocabulary, kind: str) -> None:
    with pytest.raises(ValueError, match=r"keys\[1\] is null; keys must not be null"):
        vocabulary.lookup(NULLS[kind]())


@pytest.mark.parametrize("position", [0, 5, 63, 64, 130, 198])
@pytest.mark.parametrize("skip", [0, 3, 8, 64])
def test_a_null_is_found_anywhere(vocabulary: ff.Vocabulary, position: int, skip: int) -> None:
    for size in (position + 1, 200, 333):
        keys = ["a"] * size
        keys[position] = None
        array = pa.array(["a"] * skip + keys)[skip:]
        with pytest.raises(ValueError, match=rf"keys\[{position}\] is null"):
            vocabulary.lookup(array)
    # A null before the slice leaves the bitmap and is no null of the slice.
    array = pa.array([None, *["a"] * 200])[1:]
    np.testing.assert_array_equal(vocabulary.lookup(array), [2] * 200)


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ("abc", TypeError, "keys is a str; allowed: a list or tuple of str or bytes"),
        (["a", 3], TypeError, r"keys\[1\] is a int; keys must be str or bytes"),
        ([None], TypeError, r"keys\[0\] is a NoneType"),
        (["a", "\ud800"], ValueError, r"keys\[1\] has a lone surrogate"),
        (np.array(["a", "\ud800"]), ValueError, r"keys\[1\] has a lone surrogate"),
        (np.array([1, 2]), TypeError, "numpy array of dtype int64; allowed kinds: S, U, object"),
        (np.array([["a"]]), ValueError, "keys must have 1 dimension; got 2"),
        (np.array("a"), ValueError, "keys must have 1 dimension; got 0"),
        (pa.array([1, 2]), TypeError, "Arrow array of format 'l'; allowed: string, large_string"),
        (pa.chunked_array([[1.5]]), TypeError, "Arrow array of format 'g'"),
        (pa.nulls(2), ValueError, r"keys\[0\] is null"),
    ],
)
def test_other_types_are_refused(
    vocabulary: ff.Vocabulary, keys: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        vocabulary.lookup(keys)


def test_views_keep_their_owners_alive(vocabulary: ff.Vocabulary) -> None:
    for _ in range(3):
        rows = vocabulary.lookup(pa.array(KEYS).slice(0, 1000))
        rows_chunked = vocabulary.lookup(chunked(KEYS))
        gc.collect()
        np.testing.assert_array_equal(rows, np.arange(1, 1001))
        np.testing.assert_array_equal(rows_chunked, np.arange(1, len(KEYS) + 1))


def test_arrow_data_is_read_without_importing_pyarrow() -> None:
    code = (
        "import sys, feedfast\n"
        "class Exports:\n"
        "    def __arrow_c_array__(self, requested_schema=None): raise RuntimeError('asked')\n"
        "try: feedfast.Vocabulary.build(Exports())\n"
        "except RuntimeError as error: print(error, 'pyarrow' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "asked False"
