"""Links within a host and between hosts are measured apart; hosts are threads here."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from typing import Any

import pytest
from numpy.typing import NDArray
from thread_engines import ThreadEngine, on_ranks

from feedfast.comm import Engine
from feedfast.sharding import calibration
from feedfast.sharding.topology import Topology

# Far above what threads take to meet.
HOST_DELAY_S = 2e-3


class HostEngine(ThreadEngine):
    """Two ranks a host; an exchange between hosts takes `HOST_DELAY_S` more."""

    def __init__(
        self,
        rank: int,
        ranks: tuple[int, ...],
        slots: list[Any],
        barrier: threading.Barrier,
        hosts: Hosts,
    ) -> None:
        super().__init__(rank, slots, barrier)
        self.ranks, self._hosts = ranks, hosts
        self._local_rank, self._local_size = ranks[rank] % 2, 2

    @property
    def local_rank(self) -> int:
        return self._local_rank

    @property
    def local_size(self) -> int:
        return self._local_size

    def _all_to_all(self, parts: Any, name: str) -> list[NDArray[Any]]:
        self._hosts.groups[name].add(self.ranks)
        if len({rank // 2 for rank in self.ranks}) > 1:
            time.sleep(HOST_DELAY_S)
        return super()._all_to_all(parts, name)

    def _subgroup(self, ranks: tuple[int, ...], name: str) -> Engine | None:
        with self._hosts.lock:
            slots, barrier = self._hosts.meetings.setdefault(
                ranks, ([None] * len(ranks), threading.Barrier(len(ranks)))
            )
        if self.rank not in ranks:
            return None
        return HostEngine(ranks.index(self.rank), ranks, slots, barrier, self._hosts)


class Hosts:
    """What the engines of all threads share."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.meetings: dict[tuple[int, ...], tuple[list[Any], threading.Barrier]] = {}
        self.groups: dict[str, set[tuple[int, ...]]] = defaultdict(set)


def test_links_within_and_between_hosts_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_NUM_ROWS", 4000), ("_NUM_READ", 500), ("_EXCHANGES", 5)):
        monkeypatch.setattr(calibration, name, value)
    hosts = Hosts()
    everybody = tuple(range(4))
    slots: list[Any] = [None] * 4
    barrier = threading.Barrier(4)

    def measure(engine: Engine) -> Topology:
        mine = HostEngine(engine.rank, everybody, slots, barrier, hosts)
        return calibration.calibrate(mine, memory_bytes=1 << 30)

    topologies = on_ranks(4, measure)
    assert topologies == [topologies[0]] * 4
    topology = topologies[0]
    assert (topology.num_hosts, topology.ranks_per_host) == (2, 2)
    groups = {(0, 1), (2, 3), (0, 2), (1, 3)}
    assert hosts.groups["calibrate_latency"] == groups
    assert hosts.groups["calibrate_bandwidth"] == groups
    # No machine sleeps less than that; only the link between hosts has slept.
    assert topology.host_latency >= HOST_DELAY_S
    assert topology.local_latency < topology.host_latency
    assert Topology.from_json(topology.to_json()) == topology
