"""String keys to table rows in a little over two bytes per key, without storing the keys."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from feedfast import _core
from feedfast.store import files

if TYPE_CHECKING:
    from feedfast._core import VocabularyDescription


class ArrowArray(Protocol):
    """Anything with the Arrow PyCapsule interface, such as a `pyarrow.Array`."""

    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]:
        """Exports one array."""
        ...


class ArrowStream(Protocol):
    """The same in chunks, such as a `pyarrow.ChunkedArray` or a polars or pandas series."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Exports a stream of arrays."""
        ...


Keys: TypeAlias = Sequence[str | bytes] | NDArray[Any] | ArrowArray | ArrowStream
"""A list or tuple of `str` and `bytes`, a 1-d numpy array of kind S, U or object, or Arrow strings.

A `str` stands for its UTF-8 bytes, so `"a"` and `b"a"` are one key. Trailing NULs of numpy S and U
elements are padding, as everywhere in numpy. Any other bytes are a key, the empty string too.
"""

BuildPhase: TypeAlias = Literal["read", "hash", "sort", "place", "write"]


class BuildProgress(NamedTuple):
    """How far a build is.

    Attributes:
        phase: One after the other `hash`, `sort`, `place`, `write`; for `build_external` `read`,
            `place`, `write`.
        done: Keys that the phase has dealt with.
        total: Keys that it has to deal with; None while nobody knows.
    """

    phase: BuildPhase
    done: int
    total: int | None


Progress: TypeAlias = Callable[[BuildProgress], object]
"""Called now and then, about 50 times a second; what it raises cancels the build."""

Preset: TypeAlias = Literal["compact", "fast"]
Verify: TypeAlias = Literal["header", "full"]


class Vocabulary:
    """An immutable map from byte strings to rows; row 0 is for unknown keys (OOV).

    It holds a minimal perfect hash function and a fingerprint per key instead of the keys. So all
    keys of the build are found exactly, and an unknown key is taken for a known one with
    probability `2 ** -fingerprint_bits` (always when `fingerprint_bits` is 0).

    Lookups are safe from many threads and release the GIL. Pickling copies the whole image; open a
    file in each process instead to share its pages.
    """

    __slots__ = ("_native",)
    _native: _core.Vocabulary

    def __init__(self) -> None:
        raise TypeError("use Vocabulary.build(keys) or Vocabulary.open(path)")

    @classmethod
    def _wrap(cls, native: _core.Vocabulary) -> Vocabulary:
        self = object.__new__(cls)
        self._native = native
        return self

    @classmethod
    def build(
        cls,
        keys: Keys,
        fingerprint_bits: Literal[0, 8, 16, 32] = 16,
        preset: Preset = "compact",
        rows: ArrayLike | None = None,
        threads: int | None = None,
        seed: int | None = 0,
        progress: Progress | None = None,
    ) -> Vocabulary:
        """Builds a vocabulary of distinct keys.

        Equal keys (with their rows) and arguments give equal bytes, whatever the order of the keys
        and the number of threads.

        Args:
            keys: [n] distinct keys.
            fingerprint_bits: Bits kept to recognise unknown keys.
            preset: `compact` takes the fewest bits, `fast` builds in less time.
            rows: [n] integers, distinct, in `[1, 2**48)`: the row of each key. By default rows are
                a permutation of `1..n` that the build chooses, which takes no space.
            threads: Threads of the build; all usable cores by default.
            seed: Of the key hash, `0 <= seed < 2**64`; it is stored. None draws a random one, so
                that nobody can prepare keys that collide.
            progress: Told how far the build is; raising in it, like Ctrl-C, cancels the build.

        Raises:
            ValueError: Two keys are equal (the message names them), a key of an Arrow array is
                null, a str has no UTF-8 form, or an argument is out of range.
            TypeError: `keys` or one of them is of another type, such as None in a list.
        """
        return cls._wrap(
            _core.Vocabulary.build(
                keys,
                fingerprint_bits=fingerprint_bits,
                preset=preset,
                rows=None if rows is None else _as_rows(rows),
                threads=len(os.sched_getaffinity(0)) if threads is None else threads,
                seed=secrets.randbits(64) if seed is None else _check_seed(seed),
                progress=_native_progress(progress),
            )
        )

    @classmethod
    def build_external(
        cls,
        batches: Iterable[Keys] | Iterable[tuple[Keys, ArrayLike]],
        path: str | os.PathLike[str],
        *,
        with_rows: bool = False,
        buffer_bytes: int = 256 << 20,
        fingerprint_bits: Literal[0, 8, 16, 32] = 16,
        preset: Preset = "compact",
        threads: int | None = None,
        seed: int | None = 0,
        spill_folder: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> Vocabulary:
        """Builds the vocabulary of keys that do not fit memory, in a file, and opens it.

        The file has the bytes that `build` gives for the same keys and arguments. Memory beside the
        batch at hand: `buffer_bytes` and at most 0.9 bytes per key (1.3 with rows; 1.3 and 1.9
        with the preset fast); on disk, until the end, 24 bytes per key (32 with rows) and the
        keys. A build that raises leaves nothing behind; one that
        was killed leaves a file `.tmp-<name>-...`, which the next build to the same path removes.

        Args:
            batches: Keys as `build` takes them, in batches of any size; taken once. With
                `with_rows`, pairs of such keys and their rows.
            path: File to write durably; what was there is replaced at the end.
            with_rows: Whether batches are pairs of keys and rows. Rows as in `build`.
            buffer_bytes: Memory to work in, at least 16 MiB.
            fingerprint_bits: As in `build`.
            preset: As in `build`.
            threads: As in `build`.
            seed: As in `build`.
            spill_folder: Where temporary data go; the folder of `path` by default. The files have
                no name there, so that they cannot outlive the process.
            progress: As in `build`.

        Raises:
            ValueError: As `build`; positions of duplicates and rows count over all batches, those
                of other bad keys within theirs.
            TypeError: As `build`.
            FileNotFoundError: A folder does not exist.
            OSError: A disk is full, or a file cannot be written.
        """
        target = Path(path)
        files.remove_abandoned(target)
        with files.replacing(target) as unfinished:
            external = _core.ExternalBuild(
                fingerprint_bits=fingerprint_bits,
                preset=preset,
                with_rows=with_rows,
                threads=len(os.sched_getaffinity(0)) if threads is None else threads,
                seed=secrets.randbits(64) if seed is None else _check_seed(seed),
                buffer_bytes=buffer_bytes,
                spill_folder=os.fsencode(target.parent if spill_folder is None else spill_folder),
                progress=_native_progress(progress),
            )
            for batch in batches:
                if with_rows:
                    keys, rows = cast("tuple[Keys, ArrayLike]", batch)
                    external.add(keys, _as_rows(rows))
                else:
                    external.add(batch, None)
            external.finish(os.fsencode(unfinished))
        return cls.open(target)

    @classmethod
    def open(cls, path: str | os.PathLike[str], verify: Verify = "header") -> Vocabulary:
        """Maps a saved vocabulary read-only; processes share its pages.

        Args:
            path: File written by `save`. It must not be changed while it is open (`save` replaces
                files, it never writes into one).
            verify: `header` checks header and sizes in constant time, and lookups are memory-safe
                whatever the rest holds; `full` also checks every byte.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is truncated, altered or of an unknown version; the message says
                what and where.
        """
        return cls._wrap(_core.Vocabulary.open(os.fsencode(path), verify))

    def lookup(self, keys: Keys, threads: int = 1) -> NDArray[np.int64]:
        """The rows of `keys`.

        Arrow strings and numpy S arrays are read where they lie. Of a dictionary-encoded Arrow
        array each word is looked up once, unless it has more words than keys.

        Args:
            keys: [n] keys, known or not, repeated or not.
            threads: Threads of a large batch; up to 16,384 keys are one piece of work.

        Returns:
            [n] int64, each in `[0, num_rows)`; 0 for unknown keys.

        Raises:
            ValueError: A key of an Arrow array is null, a str has no UTF-8 form, or `threads` is
                below 1.
            TypeError: `keys` or one of them is of another type, such as None in a list.
        """
        return self._native.lookup(keys, threads)

    def map_rows(self, row_map: ArrayLike) -> Vocabulary:
        """A vocabulary of the same keys whose lookups give `row_map[row]` instead of `row`.

        Rows are stored then, in as many bits per key as the highest one needs. Keys may share a
        row; keys that are given row 0 become unknown.

        Args:
            row_map: [num_rows] integers in `[0, 2**48)`; `row_map[0]` is 0.

        Raises:
            ValueError: Another length, or `row_map[0]` is not 0.
            IndexError: An element is out of range; the message gives its position.
            TypeError: Not integers.
        """
        return self._wrap(self._native.map_rows(_as_rows(row_map)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the vocabulary durably: to a new file, synced, then renamed to `path`.

        Raises:
            FileNotFoundError: The folder of `path` does not exist.
            OSError: The file cannot be written; a file that was at `path` is unchanged.
        """
        files.replace_durably(Path(path), [memoryview(self._native)])

    def __len__(self) -> int:
        return self._native.size

    @property
    def num_rows(self) -> int:
        """Rows of the table that the vocabulary indexes, row 0 included: the highest row plus 1."""
        return self._native.num_rows

    @property
    def nbytes(self) -> int:
        """Size of the whole vocabulary in bytes, in memory and as a file."""
        return memoryview(self._native).nbytes

    @property
    def bits_per_key(self) -> float:
        """Size of the hash function alone in bits per key; 0 without keys."""
        return self._native.bits_per_key

    def describe(self) -> VocabularyDescription:
        """What the header of the image says, as JSON-ready keys.

        `levels` are (slots, buckets) of the hash function; `sections` are (name, first byte, bytes)
        in file order, without the padding between them; `row_bits` is 0 where rows follow from the
        hash.
        """
        return self._native.describe()

    def __reduce__(self) -> tuple[Callable[[bytes], Vocabulary], tuple[bytes]]:
        return _from_bytes, (bytes(self._native),)

    def __repr__(self) -> str:
        return (
            f"<Vocabulary of {len(self)} keys, {self._native.fingerprint_bits}-bit fingerprints, "
            f"{self.nbytes} bytes>"
        )


def _from_bytes(image: bytes) -> Vocabulary:
    return Vocabulary._wrap(_core.Vocabulary.from_bytes(image))


def _native_progress(
    progress: Progress | None,
) -> Callable[[BuildPhase, int, int | None], object] | None:
    if progress is None:
        return None
    return lambda phase, done, total: progress(BuildProgress(phase, done, total))


def _as_rows(rows: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(rows)
    if array.size > 0 and not np.can_cast(array.dtype, np.int64):
        raise TypeError(f"rows has dtype {array.dtype}; allowed: integers that fit int64")
    return np.ascontiguousarray(array, dtype=np.int64)


def _check_seed(seed: int) -> int:
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed = {seed} is not in 0..2**64 - 1")
    return seed
