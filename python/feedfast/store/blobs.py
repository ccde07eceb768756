"""Blob files: where they lie and whether their bytes are what their name says."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from feedfast.store.manifest import BlobRef

BLOBS = "blobs"
_CHUNK_BYTES = 4 << 20

# Called with the bytes that were just read or written.
Advance = Callable[[int], object]


def blob_path(root: Path, blob: BlobRef) -> Path:
    """The file of a blob."""
    return root / BLOBS / blob.sha256


def blob_problem(
    root: Path, blob: BlobRef, *, full: bool, advance: Advance | None = None
) -> str | None:
    """What is wrong with a blob, as the end of a sentence that starts with its name; None: nothing.

    Args:
        root: Folder of the store.
        blob: What the manifest says.
        full: Read every byte and compare the digest; else the size alone.
        advance: Told how many bytes were read, now and then.
    """
    try:
        with blob_path(root, blob).open("rb", buffering=0) as file:
            num_bytes = os.fstat(file.fileno()).st_size
            if num_bytes != blob.num_bytes:
                return f"has {num_bytes} bytes; the manifest says {blob.num_bytes}"
            if full:
                digest = hashlib.sha256()
                buffer = memoryview(bytearray(min(_CHUNK_BYTES, num_bytes + 1)))
                while count := file.readinto(buffer):
                    digest.update(buffer[:count])
                    if advance is not None:
                        advance(count)
                if digest.hexdigest() != blob.sha256:
                    return f"is altered: its sha256 is {digest.hexdigest()}"
    except FileNotFoundError:
        return "is missing"
    except IsADirectoryError:
        return "is a folder"
    return None
