"""Chooses the placements of all tables: greedily by load, then by moves, swaps and splits.

The largest table is placed first, each where the step becomes shortest (longest processing time
first, R. L. Graham, "Bounds on Multiprocessing Timing Anomalies", 1969); then single changes are
made as long as one helps. That is done from several starts (all kinds, each kind alone beside whole
tables) and, for small models, after random kicks; the best result is kept. The same arguments give
the same plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from feedfast.sharding.choices import Choice, Layout, PlaceOrder, TableChoices
from feedfast.sharding.placement import KINDS, Kind
from feedfast.sharding.sharding_plan import ShardingPlan
from feedfast.sharding.skew import FloatArray
from feedfast.sharding.step_cost import CostModel, Metric, Prediction, Workload, summarize
from feedfast.sharding.table_shape import TableShape
from feedfast.sharding.topology import Topology

# Seconds that a full rank's missing memory counts as: more than any step has.
_FULL_RANK_SECONDS = 1e6
# Of the mean square load: among equal steps the better balanced one leads on.
_BALANCE_WEIGHT = 0.02
_MIN_GAIN = 1e-6
_MAX_PASSES = 20
# Ranks times tables. A large model is one above it: it has fewer starts that are improved, a larger
# least gain of a pass, and whole tables are tried on the ranks with least only.
_LARGE = 1 << 13
_LARGE_STARTS = 2
_START_BUDGET = 1 << 17
_PASS_BUDGET = 1 << 18
_LARGE_MIN_GAIN = 1e-3
_LARGE_RANKS = 16
# Kicks: at most, at least, as long as kicks times ranks times tables stay below; tables of one.
_KICKS = 40
_LEAST_KICKS = 4
_KICK_BUDGET = 1 << 16
_KICK_TABLES = 24
# Up to so many tables (and ranks times tables), the heaviest ones also change together.
_SMALL_MODEL = 6
_SMALL = 512
# Of the busiest rank and of each of the quietest: the largest parts that are swapped.
_SWAP_PARTS = 6
_SWAP_RANKS = 4

Report = Callable[[str, int, int], None]


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
        alternatives: By table, one per allowed kind, the chosen kind among them; fastest first;
            none where nobody asked.
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
    explain: bool = True,
    report: Report | None = None,
) -> Planned:
    """Searches the plan with the shortest step that fits the memory of all ranks.

    Args:
        tables: Shapes.
        topology: Ranks, rates and memory.
        workload: What a step does.
        kinds: Kinds of placement that may be used.
        min_columns: Narrowest part that columns are divided into.
        seed: Of the order in which changes are tried.
        explain: Whether to find what the other kinds would cost.
        report: Called every now and then with a stage of the search, tables done in it, and all.

    Returns:
        The plan, what it costs, and for each table what the other kinds would cost.

    Raises:
        ValueError: No kinds, a kind that does not exist, `min_columns` below 1, `seed` below 0, a
            name that two tables have, or no plan found that fits; names the rank, the table that
            has most there and the bytes that are missing.
    """
    if not kinds or not set(kinds) <= set(KINDS):
        raise ValueError(f"kinds must be some of {', '.join(KINDS)}; got {list(kinds)}")
    if min_columns < 1:
        raise ValueError(f"min_columns must be >= 1; got {min_columns}")
    if seed < 0:
        raise ValueError(f"seed must be >= 0; got {seed}")
    names: set[str] = set()
    for table in tables:
        if table.name in names:
            raise ValueError(f"table {table.name!r} is there twice")
        names.add(table.name)
    rng = np.random.default_rng(seed)
    search = _Search(tables, topology, workload, kinds, min_columns, rng, report)
    state = search.run()
    search.check_memory(state)
    return Planned(
        plan=ShardingPlan(
            num_ranks=topology.num_ranks,
            ranks_per_host=topology.ranks_per_host,
            tables=tuple(tables),
            placements=tuple(
                options.placement(table, choice)
                for table, options, choice in zip(
                    tables, search.options, state.choices, strict=True
                )
            ),
        ),
        prediction=summarize(search.model, state.total),
        alternatives={
            table.name: search.alternatives(state, index) if explain else ()
            for index, table in enumerate(tables)
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
        report: Report | None,
    ) -> None:
        self.model = CostModel(topology, workload)
        self.tables = tables
        self._rng = rng
        self._report = report
        self._cells = len(tables) * topology.num_ranks
        self._large = self._cells > _LARGE
        of_shape: dict[TableShape, TableChoices] = {}
        self.options: list[TableChoices] = []
        for index, table in enumerate(tables):
            self._tell("costs of the tables", index)
            shape = replace(table, name="any")
            if shape not in of_shape:
                of_shape[shape] = TableChoices(
                    table, self.model, kinds=kinds, min_columns=min_columns
                )
            self.options.append(of_shape[shape])
            if not of_shape[shape].layouts:
                raise ValueError(
                    f"table {table.name!r}: none of {', '.join(kinds)} is possible on "
                    f"{topology.num_hosts} hosts of {topology.ranks_per_host} ranks"
                )

    def run(self) -> _State:
        """The best state of all starts."""
        self._falling = self._by_cost()
        laid_out = {layout for options in self.options for layout in options.layouts}
        kinds = [kind for kind in KINDS if any(layout.kind == kind for layout in laid_out)]
        starts = [KINDS, ("table",), *(("table", kind) for kind in kinds if kind != "table")]
        states = [self._greedy(start) for start in starts]
        if self._large:
            states.sort(key=lambda state: state.score)
            states = states[: max(1, min(_LARGE_STARTS, _START_BUDGET // self._cells))]
        best = min((self._improve(state) for state in states), key=lambda state: state.score)
        if len(self.tables) <= _SMALL_MODEL and self._cells <= _SMALL:
            # One change after the other does not lead from "both on all ranks" to "half each".
            heaviest = self._falling
            for layout in sorted(laid_out, key=_order):
                for count in range(2, len(self.tables) + 1):
                    best = self._better(best, self._laid_out(best, heaviest[:count], layout))
        kicks = max(_LEAST_KICKS, min(_KICKS, _KICK_BUDGET // max(1, self._cells)))
        before = best
        for kick in range(kicks):
            self._tell(f"kick {kick + 1} of {kicks}", 0)
            best = self._kicked(best)
        return best if best is before else self._improve(best)

    def _tell(self, stage: str, done: int) -> None:
        if self._report is not None:
            self._report(stage, done, len(self.tables))

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
        table, choice = self.tables[index], state.choices[index]
        raise ValueError(
            f"no plan found that fits: rank {rank} needs {used[rank]:,.0f} bytes of {limit:,}, "
            f"{missing:,.0f} are missing; table {table.name!r} has the most there, "
            f"{state.parts[index, rank, Metric.MEMORY_BYTES]:,.0f} as {choice.layout.kind!r}; all "
            f"tables need {used.sum():,.0f} bytes, {len(used)} ranks have {limit * len(used):,}"
        )

    def alternatives(self, state: _State, index: int) -> tuple[Alternative, ...]:
        """For table `index`, the best choice of each kind when all others stay."""
        options = self.options[index]
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

    def _candidates(
        self, index: int, without: FloatArray, kinds: Sequence[Kind] = KINDS
    ) -> list[Choice]:
        """Every layout of table `index` where least is going on by time and by memory; and the
        whole table on every rank, in a large model on the ranks with least."""
        topology, options = self.model.topology, self.options[index]
        memory = without[:, Metric.MEMORY_BYTES]
        by_load = PlaceOrder.of(self._load(without), topology)
        by_memory: PlaceOrder | None = None
        space = topology.memory_bytes - float(memory.max())
        quiet = by_load.ranks[:_LARGE_RANKS] if self._large else range(topology.num_ranks)
        choices: dict[Choice, None] = {}
        for layout in options.layouts:
            if layout.kind not in kinds:
                continue
            choices[options.on_least(layout, by_load)] = None
            if not self._large or options.most_memory[layout] > space:
                by_memory = by_memory or PlaceOrder.of(memory, topology)
                choices[options.on_least(layout, by_memory)] = None
            if layout.kind == "table":
                for rank in quiet:
                    choices[Choice(layout, (rank,))] = None
        return list(choices)

    def _greedy(self, kinds: Sequence[Kind]) -> _State:
        """Tables by falling cost, each where the score becomes least, of `kinds` as long as that
        fits."""
        parts = self._no_parts()
        total = parts.sum(axis=0)
        chosen: dict[int, Choice] = {}
        for done, index in enumerate(self._falling):
            self._tell(f"placed, {', '.join(kinds)}", done)
            choices = self._candidates(index, total, kinds)
            added = self.options[index].contributions(choices)
            if not choices or self._excess(total + added).min() > 0.0:
                choices = self._candidates(index, total)
                added = self.options[index].contributions(choices)
            best = int(np.argmin(self.score(total + added)))
            chosen[index], parts[index] = choices[best], added[best]
            total = total + added[best]
        choices = [chosen[index] for index in range(len(self.tables))]
        return _State(choices, parts, total, float(self.score(total)))

    def _no_parts(self) -> FloatArray:
        """[tables, ranks, metrics] zeros; in memory metrics come before ranks."""
        shape = (len(self.tables), len(Metric), self.model.topology.num_ranks)
        return np.zeros(shape).transpose(0, 2, 1)

    def _by_cost(self) -> list[int]:
        topology = self.model.topology
        anywhere = PlaceOrder.of(np.zeros(topology.num_ranks), topology)
        costs = []
        for options in self.options:
            choice = options.on_least(options.layouts[-1], anywhere)
            total = options.contributions([choice])[0]
            costs.append((float(self._load(total).sum()), options.table.weight_bytes))
        return sorted(range(len(costs)), key=lambda index: costs[index], reverse=True)

    def _improve(self, state: _State) -> _State:
        passes = max(1, min(_MAX_PASSES, _PASS_BUDGET // max(1, self._cells)))
        for sweep in range(passes):
            before = state.score
            for done, index in enumerate(self._rng.permutation(len(self.tables))):
                self._tell(f"improved, pass {sweep + 1}", done)
                self._replace(state, int(index))
            self._relieve(state)
            least = _LARGE_MIN_GAIN if self._large else _MIN_GAIN
            if state.score > before * (1 - least):
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
        added = self.options[index].contributions(choices)
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
        order = np.argsort(self._load(state.total), kind="stable").tolist()
        others = [rank for rank in order if rank not in choice.places]
        if self._large:
            others = others[:_LARGE_RANKS]
        if not others:
            return False
        choices = [_moved(choice, busiest, other) for other in others]
        return self._take_best(state, index, choices)

    def _swap(self, state: _State, index: int, busiest: int) -> bool:
        """The best swap of the part of table `index` with one of a quiet rank, if one helps."""
        choice = state.choices[index]
        quiet = np.argsort(self._load(state.total), kind="stable")[:_SWAP_RANKS].tolist()
        pairs = [
            (rank, other)
            for rank in quiet
            if rank != busiest and rank not in choice.places
            for other in self._parts_of(state, rank)
            if busiest not in state.choices[other].places and other != index
        ]
        if not pairs:
            return False
        there = [_moved(choice, busiest, rank) for rank, _ in pairs]
        here = [_moved(state.choices[other], rank, busiest) for rank, other in pairs]
        first = self.options[index].contributions(there)
        second = np.concatenate(
            [
                self.options[other].contributions([moved])
                for (_, other), moved in zip(pairs, here, strict=True)
            ]
        )
        others = [other for _, other in pairs]
        totals = state.total - state.parts[index] - state.parts[others] + first + second
        scores = self.score(totals)
        best = int(np.argmin(scores))
        if scores[best] >= state.score * (1 - _MIN_GAIN):
            return False
        other = others[best]
        state.choices[index], state.parts[index] = there[best], first[best]
        state.choices[other], state.parts[other] = here[best], second[best]
        state.total, state.score = totals[best], float(scores[best])
        return True

    def _laid_out(self, state: _State, indexes: Sequence[int], layout: Layout) -> _State:
        """A copy with those tables of `indexes` that can in `layout`, one beside the other."""
        choices, parts = list(state.choices), state.parts.copy()
        able = [index for index in indexes if layout in self.options[index].layouts]
        parts[able] = 0.0
        for index in able:
            total = parts.sum(axis=0)
            order = PlaceOrder.of(self._load(total), self.model.topology)
            choices[index] = self.options[index].on_least(layout, order)
            parts[index] = self.options[index].contributions([choices[index]])[0]
        total = parts.sum(axis=0)
        return _State(choices, parts, total, float(self.score(total)))

    def _kicked(self, state: _State) -> _State:
        """The better one of `state` and a copy in which a few tables, or some of similar cost with
        one layout, went elsewhere and then where they are best."""
        if not state.choices:
            return state
        rng, topology = self._rng, self.model.topology
        other = _State(list(state.choices), state.parts.copy(), state.total, state.score)
        count = 1 + int(rng.integers(min(len(other.choices), _KICK_TABLES)))
        together = bool(rng.integers(2))
        if together:
            first = int(rng.integers(len(other.choices) - count + 1))
            indexes = self._falling[first : first + count]
        else:
            indexes = rng.choice(len(other.choices), count, replace=False).tolist()
        layouts = self.options[indexes[0]].layouts
        layout = layouts[rng.integers(len(layouts))]
        for index in indexes:
            options = self.options[index]
            if not together or layout not in options.layouts:
                layout = options.layouts[rng.integers(len(options.layouts))]
            load = self._load(other.total) if together else rng.random(topology.num_ranks)
            choice = options.on_least(layout, PlaceOrder.of(load, topology))
            added = options.contributions([choice])[0]
            other.total = other.total - other.parts[index] + added
            other.choices[index], other.parts[index] = choice, added
        other.score = float(self.score(other.total))
        self._relieve(other)
        for index in indexes:
            self._replace(other, index)
        self._relieve(other)
        return other if other.score < state.score * (1 - _MIN_GAIN) else state


def _moved(choice: Choice, source: int, target: int) -> Choice:
    places = tuple(target if place == source else place for place in choice.places)
    return Choice(choice.layout, places)


def _order(layout: Layout) -> tuple[Kind, int, int]:
    return layout.kind, layout.parts, layout.hot_rows
