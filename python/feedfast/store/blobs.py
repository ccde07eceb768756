"""Blob files: where they lie and whether their bytes are what their name says."""

from __future__ import annotations

import hashlib
import os
import stat
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
        descriptor = open_blob(blob_path(root, blob), blob)
    except ValueError as error:
        return str(error)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if full:
            digest = hashlib.sha256()
            buffer = memoryview(bytearray(min(_CHUNK_BYTES, blob.num_bytes + 1)))
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
                if advance is not None:
                    advance(count)
            if digest.hexdigest() != blob.sha256:
                return f"is altered: its sha256 is {digest.hexdigest()}"
    return None


def open_blob(path: str | bytes | Path, blob: BlobRef) -> int:
    """A descriptor of the blob's file, which has the right size.

    Raises:
        ValueError: It is missing, no regular file or of another size; the message is the end of a
            sentence that starts with the blob's name.
    """
    try:
        # O_NONBLOCK: a FIFO without a writer is refused below instead of waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ValueError("is missing") from None
    status = os.fstat(descriptor)
    problem = None
    if not stat.S_ISREG(status.st_mode):
        problem = "is not a regular file"
    elif status.st_size != blob.num_bytes:
        problem = f"has {status.st_size} bytes; the manifest says {blob.num_bytes}"
    if problem is not None:
        os.close(descriptor)
        raise ValueError(problem)
    return descriptor
