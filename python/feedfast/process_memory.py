"""Memory of a process as the kernel counts it: resident, proportional, shared, page faults."""

from __future__ import annotations

import re
import resource
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

_HEADER = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ [0-9a-f]+ \S+ \d+ *(.*)")
_DELETED = " (deleted)"


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of memory; Linux counts them in pages.

    Attributes:
        rss: Resident in this process, whoever shares it.
        pss: The same with each page divided by the number of processes that have it.
        shared: Part of rss that other mappings have too.
        anonymous: Part of rss that belongs to no file.
    """

    rss: int = 0
    pss: int = 0
    shared: int = 0
    anonymous: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(
            self.rss + other.rss,
            self.pss + other.pss,
            self.shared + other.shared,
            self.anonymous + other.anonymous,
        )

    def __sub__(self, other: Memory) -> Memory:
        return Memory(
            self.rss - other.rss,
            self.pss - other.pss,
            self.shared - other.shared,
            self.anonymous - other.anonymous,
        )


@dataclass(frozen=True, slots=True)
class PageFaults:
    """Faults of this process since it started: `major` ones waited for a device."""

    minor: int
    major: int

    def __sub__(self, other: PageFaults) -> PageFaults:
        return PageFaults(self.minor - other.minor, self.major - other.major)


def page_faults() -> PageFaults:
    """Of this process until now."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return PageFaults(usage.ru_minflt, usage.ru_majflt)


def process_memory(pid: int | None = None) -> Memory:
    """All memory of a process; None: this one.

    Raises:
        FileNotFoundError, PermissionError: No such process, or another user's.
    """
    return _sum_fields(_read(pid, "smaps_rollup").splitlines()[1:])


def memory_by_file(pid: int | None = None) -> dict[str, Memory]:
    """Memory of a process by the path of the mapped file, `[heap]` or the like, or empty.

    Files that were removed keep their path. A file that is mapped twice counts twice.

    Raises:
        FileNotFoundError, PermissionError: No such process, or another user's.
    """
    files: dict[str, Memory] = defaultdict(Memory)
    path, lines = "", list[str]()
    for line in _read(pid, "smaps").splitlines():
        header = _HEADER.match(line)
        if header is None:
            lines.append(line)
            continue
        if lines:
            files[path] += _sum_fields(lines)
        path, lines = header.group(1).removesuffix(_DELETED), []
    if lines:
        files[path] += _sum_fields(lines)
    return dict(files)


def _read(pid: int | None, name: str) -> str:
    return Path("/proc", "self" if pid is None else str(pid), name).read_text(
        encoding="utf-8", errors="surrogateescape"
    )


def _sum_fields(lines: list[str]) -> Memory:
    fields = dict(line.split(":", 1) for line in lines if ":" in line)

    def size(name: str) -> int:
        return int(fields.get(name, "0 kB").split()[0]) * 1024

    return Memory(
        size("Rss"),
        size("Pss"),
        size("Shared_Clean") + size("Shared_Dirty"),
        size("Anonymous"),
    )
