"""The machines that a plan is for: ranks, links and memory, as rates."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal

from feedfast.sharding.sharding_plan import MAX_RANKS

FORMAT = "feedfast.topology"
FORMAT_VERSION = 1

Source = Literal["measured", "preset"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Topology:
    """`num_hosts` equal hosts of `ranks_per_host` ranks.

    Attributes:
        name: Of the machine or preset.
        source: "measured" by `calibrate`, or "preset": published figures and assumptions.
        num_hosts, ranks_per_host: Host h has ranks [h * ranks_per_host, (h + 1) * ranks_per_host).
        memory_bytes: Of one rank, for tables, optimizer state and exchange buffers.
        local_latency, host_latency: Seconds of a collective with no payload, within a host and
            across hosts.
        local_bandwidth, host_bandwidth: Bytes per second that a rank sends (and at the same time
            receives) within its host and to other hosts.
        id_seconds: Of one id of a rank's own bags, found among the others.
        row_seconds: Of one row that an owner reads, beside its bytes.
        row_bandwidth: Bytes per second of rows read at random.
        window_seconds, window_bandwidth: The same of one row gradient of a rank's own window,
            packed.
        sum_seconds, sum_bandwidth: The same of one row gradient that an owner unpacks and adds.
        update_seconds, update_bandwidth: The same of one row and its state updated.
        copy_bandwidth: Bytes per second of packing and unpacking rows in order, into new memory.
        table_seconds: Of one table in one pass (forward, backward), whatever its rows.
        workers: Ranks of a host that really run at once: ranks_per_host, or fewer where the ranks
            share cores.
    """

    name: str
    source: Source
    num_hosts: int
    ranks_per_host: int
    memory_bytes: int
    local_latency: float
    local_bandwidth: float
    host_latency: float
    host_bandwidth: float
    id_seconds: float
    row_seconds: float
    row_bandwidth: float
    window_seconds: float
    window_bandwidth: float
    sum_seconds: float
    sum_bandwidth: float
    update_seconds: float
    update_bandwidth: float
    copy_bandwidth: float
    table_seconds: float
    workers: float

    def __post_init__(self) -> None:
        for what in ("num_hosts", "ranks_per_host", "memory_bytes"):
            if getattr(self, what) < 1:
                raise ValueError(f"topology: {what} must be >= 1; got {getattr(self, what)}")
        if self.num_ranks > MAX_RANKS:
            raise ValueError(
                f"topology: {self.num_hosts} hosts of {self.ranks_per_host} ranks; allowed: at "
                f"most {MAX_RANKS:,} ranks"
            )
        for field in _RATES:
            value = getattr(self, field)
            if not (math.isfinite(value) and value >= 0) or (
                value == 0 and field not in _MAY_BE_ZERO
            ):
                raise ValueError(f"topology: {field} must be finite and positive; got {value}")
        if self.workers > self.ranks_per_host:
            raise ValueError(
                f"topology: workers must be at most ranks_per_host = {self.ranks_per_host}; "
                f"got {self.workers}"
            )

    @property
    def num_ranks(self) -> int:
        """Number of ranks."""
        return self.num_hosts * self.ranks_per_host

    def to_json(self) -> str:
        """The topology as JSON; `from_json` reads it back."""
        return json.dumps({"format": FORMAT, "version": FORMAT_VERSION, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Topology:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: It is no topology; names the member.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"topology: not JSON: {error}") from None
        if not isinstance(document, dict):
            raise ValueError(f"topology: must be an object; got {type(document).__name__}")
        if document.pop("format", None) != FORMAT or document.pop("version", None) != (
            FORMAT_VERSION
        ):
            raise ValueError(f"topology: not of format {FORMAT!r}, version {FORMAT_VERSION}")
        return cls(**_checked(document))


_RATES = (
    *("local_latency", "local_bandwidth", "host_latency", "host_bandwidth"),
    *("id_seconds", "row_seconds", "row_bandwidth", "window_seconds", "window_bandwidth"),
    *("sum_seconds", "sum_bandwidth", "update_seconds", "update_bandwidth"),
    *("copy_bandwidth", "table_seconds", "workers"),
)
_MAY_BE_ZERO = frozenset(
    {
        *("local_latency", "host_latency", "id_seconds", "row_seconds", "window_seconds"),
        *("sum_seconds", "update_seconds", "table_seconds"),
    }
)


def _checked(document: Mapping[str, Any]) -> dict[str, Any]:
    members = {field.name for field in fields(Topology)}
    for name in sorted(members ^ set(document)):
        state = "missing" if name in members else "unknown"
        raise ValueError(f"topology: member {name!r} is {state}")
    checked = dict(document)
    for name, value in document.items():
        if name in ("name", "source"):
            fits = isinstance(value, str) and (name == "name" or value in ("measured", "preset"))
        elif name in _RATES:
            fits = type(value) in (int, float) and abs(value) < 1e300
        else:
            fits = type(value) is int
        if not fits:
            raise ValueError(f"topology: {name} = {value!r} is not allowed")
    return checked


# A100 and H100: data sheets (memory, NVLink, one NIC of 200 or 400 Gbit/s per GPU), each times the
# share that collectives reach (NCCL's all-to-all: about 3/4 of a link within a host and half of
# one across) and that random rows of 64 to 512 bytes reach of the memory (about half). Seconds
# of a table and of a collective are those of kernel launches. Fitted to no published table;
# `published` shows how far off they are.
_PRESETS: Mapping[str, Topology] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Topology(
                name="a100",
                source="preset",
                num_hosts=1,
                ranks_per_host=8,
                memory_bytes=72 << 30,
                local_latency=40e-6,
                local_bandwidth=0.75 * 300e9,
                host_latency=80e-6,
                host_bandwidth=0.5 * 25e9,
                id_seconds=0.0,
                row_seconds=0.0,
                row_bandwidth=0.5 * 2.0e12,
                window_seconds=0.0,
                window_bandwidth=0.5 * 2.0e12,
                sum_seconds=0.0,
                sum_bandwidth=0.5 * 2.0e12,
                update_seconds=0.0,
                update_bandwidth=0.5 * 2.0e12,
                copy_bandwidth=0.8 * 2.0e12,
                table_seconds=10e-6,
                workers=8,
            ),
            Topology(
                name="h100",
                source="preset",
                num_hosts=1,
                ranks_per_host=8,
                memory_bytes=72 << 30,
                local_latency=30e-6,
                local_bandwidth=0.75 * 450e9,
                host_latency=60e-6,
                host_bandwidth=0.5 * 50e9,
                id_seconds=0.0,
                row_seconds=0.0,
                row_bandwidth=0.5 * 3.35e12,
                window_seconds=0.0,
                window_bandwidth=0.5 * 3.35e12,
                sum_seconds=0.0,
                sum_bandwidth=0.5 * 3.35e12,
                update_seconds=0.0,
                update_bandwidth=0.5 * 3.35e12,
                copy_bandwidth=0.8 * 3.35e12,
                table_seconds=8e-6,
                workers=8,
            ),
        )
    }
)
PRESETS: tuple[str, ...] = tuple(_PRESETS)


def preset(name: str, *, num_hosts: int, ranks_per_host: int) -> Topology:
    """A cluster of A100 or H100 machines; predictions with it are not measurements.

    Raises:
        ValueError: No such preset.
    """
    if name not in _PRESETS:
        raise ValueError(f"no preset {name!r}; there are: {', '.join(PRESETS)}")
    return replace(
        _PRESETS[name],
        num_hosts=num_hosts,
        ranks_per_host=ranks_per_host,
        workers=ranks_per_host,
    )
