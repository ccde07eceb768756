"""A live vocabulary with dictionaries, one key at a time, straight from the definition."""

from __future__ import annotations

import math

import numpy as np

import feedfast as ff


class LiveVocabularyModel:
    """Exact as long as the sightings of fewer keys are counted than a set of counters holds."""

    def __init__(
        self,
        snapshot: ff.Vocabulary,
        *,
        fingerprint_bits: int,
        capacity: int,
        min_count: int,
        expire_after: float,
        max_key_bytes: int,
    ) -> None:
        self.immutable = [snapshot]
        self.fingerprint_bits = fingerprint_bits
        self.capacity = capacity
        self.min_count = min_count
        self.expire_after = expire_after
        self.max_key_bytes = max_key_bytes
        self.time = -math.inf
        self.admitted: dict[bytes, int] = {}  # row of keys of overlay and exception list
        self.last_seen: dict[bytes, float] = {}  # of those, infinite for frozen ones
        self.sightings: dict[bytes, tuple[int, float]] = {}
        self.free_rows: set[int] = set()
        self.next_row = snapshot.num_rows
        self.evicted_rows: set[int] = set()
        self.num_refused = 0

    def accepted(self, key: bytes) -> int:
        """The row that an immutable part gives to the key, right or wrong."""
        rows = [int(part.lookup([key])[0]) for part in self.immutable]
        return next((row for row in rows if row != 0), 0)

    def lookup(self, key: bytes) -> int:
        return self.admitted.get(key) or self.accepted(key)

    def observe(self, key: bytes, time: float, *, new: bool) -> int:
        self.expire(time)
        if key in self.admitted:
            self.last_seen[key] = max(self.last_seen[key], self.time)
        elif self.accepted(key) == 0:
            if len(key) > self.max_key_bytes:
                self.num_refused += 1
            elif self._count(key) >= self.min_count and self._admit(key):
                del self.sightings[key]
        elif new:
            self._admit(key)
        return self.lookup(key)

    def _count(self, key: bytes) -> int:
        count, seen = self.sightings.get(key, (0, self.time))
        if seen < self.time - self.expire_after:
            count = 0
        self.sightings[key] = (min(count + 1, self.min_count), self.time)
        return count + 1

    def _admit(self, key: bytes) -> bool:
        if len(key) > self.max_key_bytes or self.num_transient() == self.capacity:
            self.num_refused += 1
            return False
        row = min(self.free_rows, default=self.next_row)
        self.free_rows.discard(row)
        self.next_row = max(self.next_row, row + 1)
        self.admitted[key] = row
        self.last_seen[key] = self.time
        return True

    def num_transient(self) -> int:
        return sum(seen < math.inf for seen in self.last_seen.values())

    def expire(self, time: float) -> None:
        self.time = max(self.time, time)
        for key, seen in list(self.last_seen.items()):
            if seen < self.time - self.expire_after:
                del self.last_seen[key]
                row = self.admitted.pop(key)
                self.free_rows.add(row)
                self.evicted_rows.add(row)

    def take_evicted_rows(self) -> list[int]:
        rows = sorted(self.evicted_rows)
        self.evicted_rows.clear()
        return rows

    def compact(self) -> int:
        frozen = self.num_transient()
        overlay = [key for key in self.admitted if self.accepted(key) == 0]
        for key in self.admitted:
            self.last_seen[key] = math.inf
        if overlay:
            rows = np.array([self.admitted.pop(key) for key in overlay])
            for key in overlay:
                del self.last_seen[key]
            self.immutable.append(
                ff.Vocabulary.build(
                    overlay,
                    rows=rows,
                    fingerprint_bits=self.fingerprint_bits,  # type: ignore[arg-type]
                )
            )
        return frozen
