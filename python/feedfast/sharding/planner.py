"""Chooses the placements of all tables: greedily by load, then by moves, swaps and splits.

The largest table is placed first, each where the step becomes shortest (longest processing time
first, R. L. Graham, "Bounds on Multiprocessing Timing Anomalies", 1969); then single changes are
made as long as one helps. That is done from several starts (all kinds, each kind alone beside whole
tables) and, for small models, after random kicks; the best result is kept. The same arguments give
the same plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from feedfast.sharding.choices import Choice, Layout, TableChoices
from feedfast.sharding.placement import KINDS, Kind
from feedfast.sharding.sharding_plan import ShardingPlan
from feedfast.sharding.step_cost import (
    CostModel,
    FloatArray,
    Metric,
    Prediction,
    Workload,
    summarize,
)
from feedfast.sharding.table_shape import TableShape
from feedfast.sharding.topology import Topology

# Seconds that a full rank's missing memory counts as: more than any step has.
_FULL_RANK_SECONDS = 1e6
# Of the mean square load: among equal steps the better balanced one leads on.
_BALANCE_WEIGHT = 0.02
_MIN_GAIN = 1e-6
_MAX_SWEEPS = 20
# Changes of several tables at once are tried as long as ranks times tables stay below it.
_TRIAL_BUDGET = 512
_KICKS = 12
# Up to so many tables, the heaviest ones also change together.
_SMALL_MODEL = 6
# Of the busiest rank and of each of the quietest: the largest parts that are swapped.
_SWAP_PARTS = 6
_SWAP_RANKS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Alternative:
    """The best choice of one kind for a table when all others stay as planned.

    Attributes:
        kind: Kind of the placement.
        parts: Ranks that hold a part.
        hot_rows: Rows on every rank.
        step_seconds: Of a micro-batch with it.
        missing_bytes: Memory that the fullest rank lacks with it; 0 when it fits.
    """

    kind: Kind
    parts: int
    hot_rows: int
    step_seconds: float
    missing_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Planned:
    """A plan with what it is expected to cost.

    Attributes:
        plan: The plan.
        prediction: Its costs.
        alternatives: By table, one per allowed kind, the chosen kind among them; fastest first.
    """

    plan: ShardingPlan
    prediction: Prediction
    alternatives: dict[str, tuple[Alternative, ...]]


def plan_tables(
    tables: Sequence[TableShape],
    topology: Topology,
    workload: Workload,
    *,
    kinds: Sequence[Kind] = KINDS,
    min_columns: int = 4,
    seed: int = 0,
) -> Planned:
    """Searches the plan with the shortest step that fits the memory of all ranks.

    Args:
        tables: Shapes.
        topology: Ranks, rates and memory.
        workload: What a step does.
        kinds: Kinds of placement that may be used.
        min_columns: Narrowest part that columns are divided into.
        seed: Of the order in which changes are tried.

    Returns:
        The plan, what it costs, and for each table what the other kinds would cost.

    Raises:
        ValueError: No kinds, a kind that does not exist, or no plan found that fits; names the
            rank, the table that has most there and the bytes that are missing.
    """
    if not kinds or not set(kinds) <= set(KINDS):
        raise ValueError(f"kinds must be some of {', '.join(KINDS)}; got {list(kinds)}")
    search = _Search(tables, topology, workload, kinds, min_columns, np.random.default_rng(seed))
    state = search.run()
    search.check_memory(state)
    return Planned(
        plan=ShardingPlan(
            num_ranks=topology.num_ranks,
            ranks_per_host=topology.ranks_per_host,
            tables=tuple(tables),
            placements=tuple(
                options.placement(choice)
                for options, choice in zip(search.tables, state.choices, strict=True)
            ),
        ),
        prediction=summarize(search.model, state.total),
        alternatives={
            table.name: search.alternatives(state, index) for index, table in enumerate(tables)
        },
    )


@dataclass(slots=True, eq=False)
class _State:
    choices: list[Choice]
    parts: FloatArray  # [tables, ranks, metrics]
    total: FloatArray  # [ranks, metrics]
    score: float


class _Search:
    def __init__(
        self,
        tables: Sequence[TableShape],
        topology: Topology,
        workload: Workload,
        kinds: Sequence[Kind],
        min_columns: int,
        rng: np.random.Generator,
    ) -> None:
        self.model = CostModel(topology, workload)
        self.tables = [
            TableChoices(table, self.model, kinds=kinds, min_columns=min_columns)
            for table in tables
        ]
        self._rng = rng
        for options in self.tables:
            if not options.layouts:
                raise ValueError(
                    f"table {options.table.name!r}: none of {', '.join(kinds)} is possible on "
                    f"{topology.num_hosts} hosts of {topology.ranks_per_host} ranks"
                )

    def run(self) -> _State:
        """The best state of all starts."""
        laid_out = {layout for options in self.tables for layout in options.layouts}
        kinds = [kind for kind in KINDS if any(layout.kind == kind for layout in laid_out)]
        starts = [KINDS, ("table",), *(("table", kind) for kind in kinds if kind != "table")]
        best = min(
            (self._improve(self._greedy(start)) for start in starts), key=lambda state: state.score
        )
        if len(self.tables) * self.model.topology.num_ranks > _TRIAL_BUDGET:
            return best
        if len(self.tables) <= _SMALL_MODEL:
            # One change after the other does not lead from "both on all ranks" to "half each".
            heaviest = self._by_cost()
            for layout in sorted(laid_out, key=_order):
                for count in range(2, len(self.tables) + 1):
                    best = self._better(best, self._laid_out(best, heaviest[:count], layout))
        for _ in range(_KICKS):
            best = self._better(best, self._kick(best))
        return best

    def _better(self, best: _State, other: _State) -> _State:
        other = self._improve(other)
        return other if other.score < best.score * (1 - _MIN_GAIN) else best

    def score(self, totals: FloatArray) -> FloatArray:
        """[..., num_ranks, metrics] -> [...]: step, balance, missing memory."""
        load = self._load(totals)
        scores: FloatArray = (
            self.model.part_seconds(totals).sum(axis=-1)
            + _BALANCE_WEIGHT * np.sqrt(np.mean(load**2, axis=-1))
            + _FULL_RANK_SECONDS * self._excess(totals)
        )
        return scores

    def check_memory(self, state: _State) -> None:
        """Raises what `plan_tables` documents when a rank has too little memory."""
        limit = self.model.topology.memory_bytes
        used = state.total[:, Metric.MEMORY_BYTES]
        rank = int(np.argmax(used))
        missing = float(used[rank]) - limit
        if missing <= 0:
            return
        index = int(np.argmax(state.parts[:, rank, Metric.MEMORY_BYTES]))
        options, choice = self.tables[index], state.choices[index]
        raise ValueError(
            f"no plan found that fits: rank {rank} needs {used[rank]:,.0f} bytes of {limit:,}, "
            f"{missing:,.0f} are missing; table {options.table.name!r} has the most there, "
            f"{state.parts[index, rank, Metric.MEMORY_BYTES]:,.0f} as {choice.layout.kind!r}; all "
            f"tables need {used.sum():,.0f} bytes, {len(used)} ranks have {limit * len(used):,}"
        )

    def alternatives(self, state: _State, index: int) -> tuple[Alternative, ...]:
        """For table `index`, the best choice of each kind when all others stay."""
        options = self.tables[index]
        without = state.total - state.parts[index]
        choices = [state.choices[index], *self._candidates(index, without)]
        totals = without + options.contributions(choices)
        scores = self.score(totals)
        steps = self.model.part_seconds(totals).sum(axis=-1)
        excess = totals[..., Metric.MEMORY_BYTES].max(axis=-1) - self.model.topology.memory_bytes
        found: dict[Kind, int] = {}
        for at in np.argsort(scores, kind="stable"):
            found.setdefault(choices[at].layout.kind, int(at))
        found[choices[0].layout.kind] = 0  # what was chosen, not what is as good
        best = sorted(found.values(), key=lambda at: (at != 0, float(scores[at])))
        return tuple(
            Alternative(
                kind=choices[at].layout.kind,
                parts=len(options.ranks(choices[at])) or self.model.topology.num_ranks,
                hot_rows=choices[at].layout.hot_rows,
                step_seconds=float(steps[at]),
                missing_bytes=max(0, int(excess[at])),
            )
            for at in best
        )

    def _load(self, totals: FloatArray) -> FloatArray:
        """[..., num_ranks]: seconds as an owner, exchanges included."""
        topology, window = self.model.topology, self.model.workload.window
        width = topology.host_bandwidth if topology.num_hosts > 1 else topology.local_bandwidth
        sent = totals[..., Metric.ROW_BYTES] + totals[..., Metric.GRADIENT_BYTES] / window
        load: FloatArray = (
            totals[..., Metric.LOOKUP_SECONDS]
            + totals[..., Metric.UPDATE_SECONDS] / window
            + sent * topology.num_ranks / width
        )
        return load

    def _excess(self, totals: FloatArray) -> FloatArray:
        limit = self.model.topology.memory_bytes
        over = np.maximum(0.0, totals[..., Metric.MEMORY_BYTES] - limit)
        excess: FloatArray = over.sum(axis=-1) / limit
        return excess

    def _candidates(self, index: int, without: FloatArray) -> list[Choice]:
        """Every layout of table `index` where least is going on by time and by memory; and the
        whole table on every rank."""
        options = self.tables[index]
        load, memory = self._load(without), without[:, Metric.MEMORY_BYTES]
        choices: dict[Choice, None] = {}
        for layout in options.layouts:
            choices[options.on_least(layout, load)] = None
            choices[options.on_least(layout, memory)] = None
            if layout.kind == "table":
                for rank in range(self.model.topology.num_ranks):
                    choices[Choice(layout, (rank,))] = None
        return list(choices)

    def _greedy(self, kinds: Sequence[Kind]) -> _State:
        """Tables by falling cost, each where the score becomes least, of `kinds` as long as that
        fits."""
        ranks = self.model.topology.num_ranks
        total = np.zeros((ranks, len(Metric)))
        parts = np.zeros((len(self.tables), ranks, len(Metric)))
        chosen: dict[int, Choice] = {}
        for index in self._by_cost():
            options = self.tables[index]
            choices = self._candidates(index, total)
            preferred = [choice for choice in choices if choice.layout.kind in kinds]
            if preferred:
                totals = total + options.contributions(preferred)
                if self._excess(totals).min() == 0.0:
                    choices = preferred
            added = options.contributions(choices)
            best = int(np.argmin(self.score(total + added)))
            chosen[index], parts[index] = choices[best], added[best]
            total = total + added[best]
        choices = [chosen[index] for index in range(len(self.tables))]
        return _State(choices, parts, total, float(self.score(total)))

    def _by_cost(self) -> list[int]:
        nobody = np.zeros(self.model.topology.num_ranks)
        costs = []
        for options in self.tables:
            layout = options.layouts[-1]
            total = options.contributions([options.on_least(layout, nobody)])[0]
            costs.append((float(self._load(total).sum()), options.table.weight_bytes))
        return sorted(range(len(costs)), key=lambda index: costs[index], reverse=True)

    def _improve(self, state: _State) -> _State:
        for _ in range(_MAX_SWEEPS):
            before = state.score
            for index in self._rng.permutation(len(self.tables)):
                self._replace(state, int(index))
            self._relieve(state)
            if state.score > before * (1 - _MIN_GAIN):
                break
        # What many changes added up to has rounding errors.
        state.total = state.parts.sum(axis=0)
        state.score = float(self.score(state.total))
        return state

    def _replace(self, state: _State, index: int) -> bool:
        """Table `index` where it is best now."""
        choices = self._candidates(index, state.total - state.parts[index])
        return self._take_best(state, index, choices)

    def _take_best(self, state: _State, index: int, choices: Sequence[Choice]) -> bool:
        """The best of `choices` for table `index`, where that is better than what it has."""
        without = state.total - state.parts[index]
        added = self.tables[index].contributions(choices)
        scores = self.score(without + added)
        best = int(np.argmin(scores))
        if scores[best] >= state.score * (1 - _MIN_GAIN):
            return False
        state.choices[index], state.parts[index] = choices[best], added[best]
        state.total, state.score = without + added[best], float(scores[best])
        return True

    def _relieve(self, state: _State) -> None:
        """Moves parts of the busiest rank elsewhere, or swaps them, as long as that helps."""
        for _ in range(4 * self.model.topology.num_ranks):
            busiest = int(np.argmax(self._load(state.total)))
            if not any(
                self._move(state, index, busiest) or self._swap(state, index, busiest)
                for index in self._parts_of(state, busiest)
            ):
                break

    def _parts_of(self, state: _State, rank: int) -> list[int]:
        """The tables with the largest parts on `rank` that can go to another rank alone."""
        alone = [
            index
            for index, choice in enumerate(state.choices)
            if choice.layout.kind != "row_column" and rank in choice.places
        ]
        load = self._load(state.parts[alone])[:, rank] if alone else np.zeros(0)
        return [alone[at] for at in np.argsort(-load, kind="stable")[:_SWAP_PARTS]]

    def _move(self, state: _State, index: int, busiest: int) -> bool:
        choice = state.choices[index]
        others = [r for r in range(self.model.topology.num_ranks) if r not in choice.places]
        if not others:
            return False
        choices = [_moved(choice, busiest, other) for other in others]
        return self._take_best(state, index, choices)

    def _swap(self, state: _State, index: int, busiest: int) -> bool:
        choice = state.choices[index]
        quiet = np.argsort(self._load(state.total), kind="stable")[:_SWAP_RANKS]
        for rank in (int(r) for r in quiet):
            if rank == busiest or rank in choice.places:
                continue
            for other in self._parts_of(state, rank):
                if busiest in state.choices[other].places or other == index:
                    continue
                there = _moved(choice, busiest, rank)
                here = _moved(state.choices[other], rank, busiest)
                first = self.tables[index].contributions([there])[0]
                second = self.tables[other].contributions([here])[0]
                total = state.total - state.parts[index] - state.parts[other] + first + second
                score = float(self.score(total))
                if score < state.score * (1 - _MIN_GAIN):
                    state.choices[index], state.parts[index] = there, first
                    state.choices[other], state.parts[other] = here, second
                    state.total, state.score = total, score
                    return True
        return False

    def _laid_out(self, state: _State, indexes: Sequence[int], layout: Layout) -> _State:
        """A copy with those tables of `indexes` that can in `layout`, one beside the other."""
        choices, parts = list(state.choices), state.parts.copy()
        able = [index for index in indexes if layout in self.tables[index].layouts]
        parts[able] = 0.0
        for index in able:
            total = parts.sum(axis=0)
            choices[index] = self.tables[index].on_least(layout, self._load(total))
            parts[index] = self.tables[index].contributions([choices[index]])[0]
        total = parts.sum(axis=0)
        return _State(choices, parts, total, float(self.score(total)))

    def _kick(self, state: _State) -> _State:
        """A copy with a few tables laid out at random."""
        choices, parts = list(state.choices), state.parts.copy()
        count = min(len(choices), 1 + len(choices) // 4)
        for index in self._rng.choice(len(choices), count, replace=False) if choices else ():
            options = self.tables[index]
            layout = options.layouts[self._rng.integers(len(options.layouts))]
            load = self._rng.random(self.model.topology.num_ranks)
            choices[index] = options.on_least(layout, load)
            parts[index] = options.contributions([choices[index]])[0]
        total = parts.sum(axis=0)
        return _State(choices, parts, total, float(self.score(total)))


def _moved(choice: Choice, source: int, target: int) -> Choice:
    places = tuple(target if place == source else place for place in choice.places)
    return Choice(choice.layout, places)


def _order(layout: Layout) -> tuple[Kind, int, int]:
    return layout.kind, layout.parts, layout.hot_rows
