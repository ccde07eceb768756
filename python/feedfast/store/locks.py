"""Advisory locks: writers against the collection of garbage, open versions against their removal.

They are `flock` locks: the system drops them when the process dies, however it dies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

# In the store's folder; empty. Shared by writers, held alone by the collection of garbage.
WRITERS_LOCK = "writers.lock"

_POLL_S = 0.02
_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class FileLock:
    """A locked open file. Unlocked by `close`, by garbage collection or by the process's end.

    A forked child has the lock, too. `for_children`: it stays locked until the last of them lets go
    of it, as readers need; else until this process does, whatever children do.
    """

    def __init__(self, descriptor: int, *, for_children: bool = False) -> None:
        self._descriptor = descriptor
        self._unlocker = None if for_children else os.getpid()

    @property
    def descriptor(self) -> int:
        """Of the open file; -1 once closed."""
        return self._descriptor

    def close(self) -> None:
        """Unlocks; more than once is harmless."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            if self._unlocker == os.getpid():
                with contextlib.suppress(OSError):  # a file system without locks
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def _try_lock(descriptor: int, operation: int) -> bool:
    """False while somebody else's lock is in the way."""
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def share_with_writers(root: Path) -> FileLock:
    """Waits until no garbage is being collected, and keeps it from starting.

    On a file system without locks this does nothing: there the age of blobs is what protects them.
    """
    lock = FileLock(os.open(root / WRITERS_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666))
    try:
        fcntl.flock(lock.descriptor, fcntl.LOCK_SH)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    return lock


@contextlib.contextmanager
def without_writers(root: Path, *, wait_s: float) -> Iterator[None]:
    """Keeps writers of the store out for the length of the block.

    Raises:
        TimeoutError: Some writer is still at work after `wait_s` seconds.
    """
    path = root / WRITERS_LOCK
    deadline = time.monotonic() + wait_s
    with FileLock(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)) as lock:
        while not _try_lock(lock.descriptor, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    f"{root}: a writer is at work (it holds {WRITERS_LOCK}); "
                    f"waited {wait_s:g} s for it to publish or end"
                )
            time.sleep(_POLL_S)
        yield


def hold_open(file: Path) -> FileLock:
    """Opens a manifest for reading and keeps its version from being removed.

    A collection that holds it alone removes it at once, or lets go when it only asked who has it
    open: the call waits for either.

    Raises:
        FileNotFoundError: It does not exist, or was just removed.
    """
    lock = FileLock(os.open(file, os.O_RDONLY | os.O_CLOEXEC), for_children=True)
    try:
        while not _try_lock(lock.descriptor, fcntl.LOCK_SH) and _is_at(file, lock.descriptor):
            time.sleep(_POLL_S)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return lock
    # Between open and lock the version may have gone: the name is another file then, or none.
    if not _is_at(file, lock.descriptor):
        lock.close()
        raise FileNotFoundError(errno.ENOENT, "version was removed", str(file))
    return lock


def hold_alone(file: Path) -> FileLock | None:
    """A lock on a manifest that nobody has open; None when somebody has."""
    # Network file systems lock alone only what is open for writing.
    lock = FileLock(os.open(file, os.O_RDWR | os.O_CLOEXEC))
    if _try_lock(lock.descriptor, fcntl.LOCK_EX):
        return lock
    lock.close()
    return None


def _is_at(file: Path, descriptor: int) -> bool:
    try:
        named = file.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(descriptor))
