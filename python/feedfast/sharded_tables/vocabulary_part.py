"""One part of a divided vocabulary: the perfect hash of its keys, and their codes for export."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np

from feedfast import _core
from feedfast.bags import IntArray
from feedfast.sharded_tables.key_codes import Codes
from feedfast.vocab import Preset, Verify

_CHECKSUM = slice(248, 256)  # of the header, which has those of the sections


class VocabularyPart:
    """A `Vocabulary` image of n keys, whose rows are a permutation of 0..n - 1, and their codes.

    The codes, 8 bytes a key, are what a whole vocabulary is made of: the image does not have them.
    They are in memory until the part is saved, then in its file.
    """

    def __init__(self, image: _core.Vocabulary, codes: Codes | Path) -> None:
        self._image = image
        self._codes = codes

    @classmethod
    def build(
        cls,
        codes: Codes,
        *,
        fingerprint_bits: Literal[0, 8, 16, 32],
        preset: Preset,
        seed: int,
        threads: int,
    ) -> VocabularyPart:
        """The part of keys with these codes [n], distinct and ascending.

        Raises:
            ValueError: Another number of fingerprint bits, preset or number of threads.
        """
        image = _core.Vocabulary.build_of_codes(
            codes, fingerprint_bits=fingerprint_bits, preset=preset, threads=threads, seed=seed
        )
        return cls(image, codes)

    @classmethod
    def open(cls, image: Path, codes: Path, *, verify: Verify) -> VocabularyPart:
        """Maps an image; `codes` are left for later.

        Raises:
            OSError: There is no such image.
            ValueError: It is damaged, or has rows of its own; names the file.
        """
        part = cls(_core.Vocabulary.open(os.fsencode(image), verify), codes)
        if part._image.num_rows != len(part) + 1:
            raise ValueError(f"{image}: {len(part)} keys have {part._image.num_rows} rows")
        return part

    def __len__(self) -> int:
        return self._image.size

    @property
    def nbytes(self) -> int:
        """Bytes of the image, and of the codes while they are in memory."""
        codes = 0 if isinstance(self._codes, Path) else self._codes.nbytes
        return memoryview(self._image).nbytes + codes

    @property
    def image(self) -> memoryview:
        """The content of its file."""
        return memoryview(self._image)

    @property
    def seed(self) -> int:
        """Of the hash of keys."""
        return self._image.describe()["hash_seed"]

    @property
    def checksum(self) -> str:
        """Of the image, in hexadecimal."""
        return bytes(self.image[_CHECKSUM]).hex()

    @property
    def codes_name(self) -> str:
        """Where the codes are, for messages."""
        return str(self._codes) if isinstance(self._codes, Path) else "codes in memory"

    def codes(self) -> Codes:
        """The codes [n], ascending; mapped where they are in a file."""
        if not isinstance(self._codes, Path):
            return self._codes
        if len(self) == 0:  # nothing cannot be mapped
            return np.empty(0, np.uint64)
        return np.memmap(self._codes, np.dtype("<u8"), "r", shape=(len(self),))

    def keep_codes_in(self, path: Path) -> None:
        """Frees the memory of the codes, which are in a file now."""
        self._codes = path

    def find(self, codes: Codes) -> IntArray:
        """The rows [m] of codes from 0 on; -1 for unknown ones."""
        return self._image.lookup_codes(codes) - 1
