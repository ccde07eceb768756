"""What processes may leave behind in shared memory."""

from __future__ import annotations

import os


def shared_memory_files() -> set[str]:
    """Files in /dev/shm, without the semaphores of Python's multiprocessing.

    Those live as long as the programs that made them, such as other tests at the same time.
    """
    return {name for name in os.listdir("/dev/shm") if not name.startswith("sem.mp-")}
