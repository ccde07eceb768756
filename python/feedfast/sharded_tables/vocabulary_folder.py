"""Divided vocabularies in a folder, which any number of ranks opens.

Every rank writes its parts, in parallel: `part-TOKEN-NUMBER.ffv`, a vocabulary image, and `.codes`,
the codes of its keys as little-endian 64-bit numbers. The manifest, `vocabulary.json`, is written
last and replaced whole, and is all that makes files a vocabulary. It has the number of keys of
every part, the checksum that ends the header of its image, and the CRC-32 of its codes. Files that
it does not name are of saves that were not finished or of earlier ones; the next save removes them.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from feedfast.comm import Engine
from feedfast.sharded_tables import part_folder
from feedfast.sharded_tables.agreement import all_or_none
from feedfast.sharded_tables.key_codes import first_parts
from feedfast.sharded_tables.part_folder import part_name, save_parts
from feedfast.sharded_tables.sharded_vocabulary import MAX_PARTS, ShardedVocabulary
from feedfast.sharded_tables.vocabulary_part import VocabularyPart
from feedfast.store import files
from feedfast.vocab import Verify

MANIFEST = "vocabulary.json"
FORMAT = "feedfast-sharded-vocabulary"
FORMAT_VERSION = 1
MAX_MANIFEST_BYTES = 64 << 20

_FILE_NAME = part_name("")
_WRITTEN = part_name(r"\.(ffv|codes)")
_CRC_STEP = 1 << 22


@dataclass(frozen=True, slots=True)
class StoredPart:
    """What the manifest says of a part.

    Attributes:
        file: Name of its files without their suffixes.
        keys: Number of keys.
        checksum: Of the image's header, in hexadecimal.
        codes_crc: CRC-32 of the codes.
    """

    file: str
    keys: int
    checksum: str
    codes_crc: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of `vocabulary.json`: the seed of the hash of keys, and all parts."""

    seed: int
    parts: tuple[StoredPart, ...]

    def to_json(self) -> bytes:
        """The bytes of the file."""
        document = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "seed": self.seed,
            "parts": [asdict(part) for part in self.parts],
        }
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Manifest:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: It is something else.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not JSON: {error}") from None
        expected = {"format", "version", "seed", "parts"}
        if not isinstance(document, dict) or set(document) != expected:
            raise ValueError(f"not an object of {', '.join(sorted(expected))}")
        if (document["format"], document["version"]) != (FORMAT, FORMAT_VERSION):
            raise ValueError(
                f"format {document['format']!r} of version {document['version']!r}; this program "
                f"reads {FORMAT!r} of version {FORMAT_VERSION}"
            )
        seed, parts = document["seed"], document["parts"]
        if type(seed) is not int or not 0 <= seed < 2**64:
            raise ValueError(f"seed is {seed!r}; needs a number in 0..2**64 - 1")
        if not isinstance(parts, list) or not 1 <= len(parts) <= MAX_PARTS:
            raise ValueError(f"parts is not a list of 1 to {MAX_PARTS}")
        return cls(seed, tuple(_part(number, part) for number, part in enumerate(parts)))


def _part(number: int, part: Any) -> StoredPart:
    where = f"parts[{number}]"
    if not isinstance(part, dict) or set(part) != {"file", "keys", "checksum", "codes_crc"}:
        raise ValueError(f"{where} is not an object of file, keys, checksum, codes_crc")
    file, keys, checksum, codes_crc = (
        part[name] for name in ("file", "keys", "checksum", "codes_crc")
    )
    if not isinstance(file, str) or not _FILE_NAME.match(file):
        raise ValueError(f"{where}: {file!r} is no name of a file here")
    if type(keys) is not int or not 0 <= keys < 2**31:
        raise ValueError(f"{where}: keys is {keys!r}")
    if not isinstance(checksum, str) or type(codes_crc) is not int:
        raise ValueError(f"{where}: checksum is {checksum!r}, codes_crc {codes_crc!r}")
    return StoredPart(file, keys, checksum, codes_crc)


def save_vocabulary(vocabulary: ShardedVocabulary, folder: Path) -> None:
    """Saves all parts; collective. The ranks' memory for codes is freed.

    Whenever a process or the machine dies, the folder holds the vocabulary that it held before or
    the new one, whole.

    Args:
        vocabulary: The vocabulary.
        folder: The same for all ranks, on a file system that all of them see; created where it is
            missing. One save at a time.

    Raises:
        OSError: A file of this rank cannot be written; what was saved before stays.
        RuntimeError: The same of another rank.
    """

    def write(prefix: str) -> list[StoredPart]:
        return [
            _write(part, folder, f"{prefix}{number:05d}")
            for number, part in vocabulary.parts.items()
        ]

    def describe(parts: list[dict[str, Any]]) -> bytes:
        return Manifest(vocabulary.seed, tuple(StoredPart(**part) for part in parts)).to_json()

    written = save_parts(
        vocabulary.engine,
        folder,
        MANIFEST,
        name="vocabulary_save",
        written=_WRITTEN,
        write=write,
        describe=describe,
    )
    for part, stored in zip(vocabulary.parts.values(), written, strict=True):
        part.keep_codes_in(folder / f"{stored.file}.codes")


def open_vocabulary(
    folder: Path, engine: Engine, *, verify: Verify = "header"
) -> ShardedVocabulary:
    """Opens what `save_vocabulary` saved, on any number of ranks; collective.

    Parts stay whole: rank r of n takes parts number P r / n up to P (r + 1) / n, rounded down, of
    P. Where n does not divide P, some ranks have a part more than others; where n is above P, some
    have none. The rows of keys stay what they are.

    Args:
        folder: Where it was saved.
        engine: Of the ranks.
        verify: "header" checks the headers and sizes of this rank's parts; "full" also every byte
            of them.

    Raises:
        OSError: A file is missing.
        ValueError: A file is damaged, or not that of the manifest; names it.
        RuntimeError: One of these on another rank.
    """

    def read() -> tuple[Manifest, dict[int, VocabularyPart]]:
        manifest = read_manifest(folder)
        bounds = first_parts(len(manifest.parts), engine.size)
        own = range(bounds[engine.rank], bounds[engine.rank + 1])
        return manifest, {
            number: _open(folder, manifest.parts[number], manifest.seed, verify) for number in own
        }

    (manifest, parts), texts = all_or_none(
        engine, "vocabulary_open", read, share=lambda found: f"{zlib.crc32(found[0].to_json())}"
    )
    if len(set(texts)) > 1:
        raise RuntimeError(f"{folder / MANIFEST}: the ranks have read different ones")
    sizes = [part.keys for part in manifest.parts]
    return ShardedVocabulary(engine, seed=manifest.seed, sizes=sizes, parts=parts)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        OSError: There is none.
        ValueError: It is damaged; names the file.
    """
    return part_folder.read_manifest(
        folder / MANIFEST, Manifest.from_json, most_bytes=MAX_MANIFEST_BYTES
    )


def _write(part: VocabularyPart, folder: Path, file: str) -> StoredPart:
    codes = part.codes()
    files.replace_durably(folder / f"{file}.ffv", [part.image])
    files.replace_durably(folder / f"{file}.codes", [codes.astype("<u8", copy=False).data])
    return StoredPart(file, len(part), part.checksum, _crc_of(codes))


def _open(folder: Path, stored: StoredPart, seed: int, verify: Verify) -> VocabularyPart:
    image, codes = (folder / f"{stored.file}.{suffix}" for suffix in ("ffv", "codes"))
    part = VocabularyPart.open(image, codes, verify=verify)
    if (len(part), part.checksum, part.seed) != (stored.keys, stored.checksum, seed):
        raise ValueError(
            f"{image}: {len(part)} keys, checksum {part.checksum}, seed {part.seed}; its manifest "
            f"has {stored.keys}, {stored.checksum}, {seed}"
        )
    if codes.stat().st_size != 8 * stored.keys:
        raise ValueError(
            f"{codes}: {codes.stat().st_size} bytes; the codes of {stored.keys} keys have "
            f"{8 * stored.keys}"
        )
    if verify == "full" and _crc_of(part.codes()) != stored.codes_crc:
        raise ValueError(f"{codes}: not the bytes that were saved")
    return part


def _crc_of(codes: Any) -> int:
    crc = 0
    for begin in range(0, len(codes), _CRC_STEP):
        crc = zlib.crc32(codes[begin : begin + _CRC_STEP].astype("<u8", copy=False), crc)
    return crc
