"""A vocabulary that goes on learning: an immutable snapshot and the keys born after it."""

from __future__ import annotations

import math
import os
import secrets
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feedfast import _core
from feedfast.store import files
from feedfast.vocab import Keys, Vocabulary


class LiveVocabulary:
    """A snapshot and an overlay of keys born after it, looked up as one.

    A key that the snapshot does not know gets a row of its own after `min_count` sightings
    (`observe`), keeps it for as long as it is seen, and gives it back when it was not seen for
    `expire_after` seconds. `compact` freezes the keys admitted so far into an immutable segment, of
    a few bytes per key.

    Rows: those of the snapshot stay; new keys get rows from `snapshot.num_rows` on, the lowest free
    one first. A row is free again when its key expired, and `take_evicted_rows` names it, so that
    training can start it afresh.

    The snapshot has forgotten its keys, and takes one in `2**fingerprint_bits` others for one of
    them. Only the caller can know that such a key is new, from the event that created it, and says
    so with `observe(keys, time, new=True)`: the keys that snapshot or segments falsely accept
    enter a list of exact exceptions. Without that they share the row of some other key, as in every
    `Vocabulary`.

    Sightings of keys that are not admitted yet are counted in a fixed table of `4 * capacity`
    counters. Counts are never too high (but for one sighting in `2**45`), so no key enters too
    early; a count starts again from zero when the key was not seen for `expire_after` seconds, or
    for so long that some `4 * capacity` other keys without a row were seen meanwhile, so a key may
    enter too late. No stream of keys makes the memory grow.

    Safe from many threads; every call releases the GIL. Lookups run concurrently with each other
    and with one writer; other writers wait for their turn.
    """

    __slots__ = ("_native", "_snapshot")
    _native: _core.LiveVocabulary
    _snapshot: Vocabulary

    def __init__(
        self,
        snapshot: Vocabulary,
        capacity: int = 100_000,
        min_count: int = 2,
        expire_after: float | None = None,
        *,
        max_key_bytes: int = 256,
        seed: int | None = 0,
    ) -> None:
        """Starts without new keys.

        Args:
            snapshot: Vocabulary with fingerprints of 8, 16 or 32 bits.
            capacity: Most new keys between two calls of `compact`, `1..2**28`. When they are there,
                further ones are turned away (`num_refused`) until some expire.
            min_count: Sightings after which a key is admitted, `1..65535`.
            expire_after: Seconds without a sighting after which a key loses its row; None: never.
            max_key_bytes: Longer keys are never admitted, which bounds the memory; `1..65535`.
            seed: Of the hash of new keys, `0 <= seed < 2**64`; it is stored. None draws a random
                one, so that nobody can prepare keys that collide.

        Raises:
            ValueError: An argument is out of range, or the snapshot has no fingerprints.
        """
        if seed is not None and not 0 <= seed < 2**64:
            raise ValueError(f"seed = {seed} is not in 0..2**64 - 1")
        self._snapshot = snapshot
        self._native = _core.LiveVocabulary(
            snapshot._native,
            capacity=capacity,
            min_count=min_count,
            expire_after=math.inf if expire_after is None else expire_after,
            max_key_bytes=max_key_bytes,
            seed=secrets.randbits(64) if seed is None else seed,
        )

    @classmethod
    def open(cls, path: str | os.PathLike[str], snapshot: Vocabulary) -> LiveVocabulary:
        """Reads a file written by `save`; it goes on as if it had not been closed.

        Args:
            path: The file. It is read and checked as a whole, and may be replaced meanwhile.
            snapshot: The vocabulary that the live one was made with.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is truncated, altered, of an unknown version, or belongs to another
                snapshot; the message says what and where.
        """
        content = Path(path).read_bytes()
        try:
            native = _core.LiveVocabulary.from_image(snapshot._native, content)
        except ValueError as error:
            raise ValueError(f"'{os.fspath(path)}': {error}") from None
        self = object.__new__(cls)
        self._snapshot = snapshot
        self._native = native
        return self

    def lookup(self, keys: Keys, threads: int = 1) -> NDArray[np.int64]:
        """The rows of `keys`: of the snapshot, of frozen segments, or of admitted keys.

        Args:
            keys: [n] keys, known or not, repeated or not.
            threads: As `Vocabulary.lookup`.

        Returns:
            [n] int64, each in `[0, num_rows)`; 0 for unknown keys.

        Raises:
            ValueError: A key of an Arrow array is null, a str has no UTF-8 form, or `threads` is
                below 1.
            TypeError: `keys` or one of them is of another type, such as None in a list.
        """
        return self._native.lookup(keys, threads)

    def observe(self, keys: Keys, time: float, *, new: bool = False) -> NDArray[np.int64]:
        """Expires, counts a sighting of each key, admits keys and returns the rows of all.

        Args:
            keys: [n] keys as they occurred, repeated or not; each occurrence is a sighting.
            time: Seconds since any fixed moment. Time does not run backwards: an earlier time than
                the latest one stands for the latest one.
            new: The caller knows that neither the snapshot nor a segment was built with these keys,
                because they were born after it and after the last `compact`. Those that one of them
                accepts all the same enter the exception list at once, whatever `min_count`: their
                later sightings need no `new`. A key of the snapshot that is wrongly called new
                loses its row to a fresh one.

        Returns:
            [n] int64, the row of each key after its sighting; 0 for keys without one.

        Raises:
            ValueError: `time` is not finite; or as `lookup`. Nothing was counted.
            TypeError: As `lookup`.
        """
        return self._native.observe(keys, time, new=new)

    def expire(self, time: float) -> None:
        """Removes the keys that were not seen for more than `expire_after` seconds before `time`.

        `observe` does this too; until one of them does, lookups find expired keys.

        Raises:
            ValueError: `time` is not finite.
        """
        self._native.expire(time)

    def take_evicted_rows(self) -> NDArray[np.int64]:
        """Rows whose keys expired since the last call, ascending; none is named twice.

        A row may belong to a new key already. So training resets the rows between `observe` and the
        step that uses what it returned.
        """
        return self._native.take_evicted_rows()

    def compact(self) -> int:
        """Freezes the admitted keys with their rows; they do not expire any more.

        Keys of the overlay become one more immutable segment, which forgets the strings; keys of
        the exception list stay there. Afterwards `capacity` further keys have room. Call `expire`
        before, if stale keys shall go. A full merge is a new snapshot from the source of the keys,
        `Vocabulary.build(keys, rows=...)`.

        Returns:
            Number of keys that were frozen.

        Raises:
            RuntimeError: There are 64 segments; each one costs unknown keys a lookup and adds its
                own false accepts, so it is time for a new snapshot.
        """
        return self._native.compact()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes everything but the snapshot durably: to a new file, synced, then renamed.

        Raises:
            FileNotFoundError: The folder of `path` does not exist.
            OSError: The file cannot be written; a file that was at `path` is unchanged.
        """
        files.replace_durably(Path(path), [self._native.image()])

    def __len__(self) -> int:
        """Keys that have a row: of snapshot, segments, overlay and exception list."""
        return self._native.counts().num_keys

    @property
    def snapshot(self) -> Vocabulary:
        """The vocabulary below."""
        return self._snapshot

    @property
    def num_rows(self) -> int:
        """Rows that the table must have: the highest row ever given plus 1. Never falls."""
        return self._native.counts().num_rows

    @property
    def max_num_rows(self) -> int:
        """What `num_rows` can reach before the next `compact`: the size for a fixed table."""
        return self._native.counts().max_num_rows

    @property
    def num_segments(self) -> int:
        """Immutable segments that `compact` made."""
        return self._native.counts().num_segments

    @property
    def num_frozen(self) -> int:
        """Keys of the segments."""
        return self._native.counts().num_frozen

    @property
    def num_overlay(self) -> int:
        """Admitted keys that can expire and that nothing else accepts."""
        return self._native.counts().num_overlay

    @property
    def num_exceptions(self) -> int:
        """New keys that the snapshot or a segment falsely accepts."""
        return self._native.counts().num_exceptions

    @property
    def num_refused(self) -> int:
        """Sightings that admitted no key because of `capacity` or `max_key_bytes`."""
        return self._native.counts().num_refused

    @property
    def nbytes(self) -> int:
        """Memory in bytes, the snapshot not counted."""
        return self._native.counts().nbytes

    def __repr__(self) -> str:
        counts = self._native.counts()
        return (
            f"<LiveVocabulary of {len(self._snapshot)} + {counts.num_frozen} frozen + "
            f"{counts.num_overlay} new keys + {counts.num_exceptions} exceptions, "
            f"{counts.nbytes} bytes beside the snapshot>"
        )
