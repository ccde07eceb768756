"""Digests of all blobs of an opened version, compared by a thread beside its readers."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from feedfast.store.blobs import blob_problem
from feedfast.store.manifest import BlobRef, Manifest


class _Stopped(Exception):
    """Nobody waits for the result any more."""


class Verification:
    """Compares every blob of a version with its digest, once, when `start` or `wait` is called."""

    def __init__(self, root: Path, manifest: Manifest, where: str) -> None:
        self._root = root
        self._where = where
        # Shared blobs once; the first section is the one that messages name.
        self._blobs: dict[BlobRef, str] = {}
        for section in manifest.sections.values():
            for blob in section.blobs:
                self._blobs.setdefault(blob, section.name)
        self._reset()

    def _reset(self) -> None:
        self._starting = threading.Lock()
        self._started = False
        self._done = threading.Event()
        self._stop = threading.Event()
        self._problem: str | None = None
        self._pid = os.getpid()

    @property
    def done(self) -> bool:
        """Whether every blob was compared, or one was found that is damaged."""
        return self._done.is_set()

    @property
    def problem(self) -> str | None:
        """What is wrong, naming section and blob; None: nothing so far."""
        return self._problem

    def start(self) -> None:
        """Begins in a thread, unless it has begun."""
        if not self.done and self._pid != os.getpid():
            self._reset()  # forked: the thread stayed with the parent
        with self._starting:
            if self._started:
                return
            self._started = True
            thread = threading.Thread(target=self.run, name="feedfast-verify", daemon=True)
            thread.start()

    def run(self) -> None:
        """Does all of it in this thread."""
        self._started = True
        try:
            for blob, section in self._blobs.items():
                problem = blob_problem(self._root, blob, full=True, advance=self._check_stop)
                if problem is not None:
                    self._problem = (
                        f"{self._where}: section {section!r}: blob {blob.sha256} {problem}"
                    )
                    break
        except _Stopped:
            self._problem = f"{self._where}: verification was stopped"
        except OSError as error:
            self._problem = f"{self._where}: {error}"
        except BaseException as error:
            self._problem = f"{self._where}: verification failed: {error!r}"
            raise
        finally:
            self._done.set()

    def wait(self, timeout_s: float | None) -> None:
        """Starts if nobody has, and returns when everything was right.

        Raises:
            ValueError: A blob is missing, truncated or altered; the message names it.
            TimeoutError: It is not done after so many seconds.
        """
        self.start()
        if not self._done.wait(timeout_s):
            raise TimeoutError(f"{self._where}: not verified after {timeout_s:g} s")
        if self._problem is not None:
            raise ValueError(self._problem)

    def stop(self) -> None:
        """Ends a running thread soon."""
        self._stop.set()

    def _check_stop(self, _: int) -> None:
        if self._stop.is_set():
            raise _Stopped
