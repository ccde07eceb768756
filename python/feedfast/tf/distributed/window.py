"""A window of micro-batches: what is summed in it, and its exchange at the end.

Numpy alone; `tape.py` brings TensorFlow's gradients here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from feedfast import _core
from feedfast.comm import Engine
from feedfast.comm.sparse_rows import RowAccumulator, pack_tables
from feedfast.tf.distributed.clipping import clip_multiplier, sum_of_squares
from feedfast.tf.distributed.sparse_exchange import (
    RowGradients,
    TableChoice,
    Wire,
    merge_received,
    rows_are_cheaper,
    threshold_share,
)

__all__ = ["GradientSlot", "GradientWindow", "WindowParticipant"]


class WindowParticipant(Protocol):
    """Gradients that a layer collects itself and exchanges at the end of a window.

    Sharded tables are the reason: the gradient of a row belongs to the process that owns the row.
    `AccumulatingGradientTape` calls the methods in the order in which they stand here, on all
    processes at the same place. Between windows the participant adds up what the backward passes
    of the micro-batches give it.
    """

    def begin_backward(self, weight: float) -> None:
        """Told before the backward pass of every micro-batch; not collective.

        Args:
            weight: Of the micro-batch, by which its gradients are multiplied already. With weight 0
                they are left out: rows of gradient 0 would still be updated.
        """
        ...

    def exchange_window(self, scale: float) -> float:
        """Sends the gradients of the window to their owners; collective.

        Args:
            scale: What the summed gradients are to be multiplied by: 1 / (sum of the weights of
                the micro-batches of all processes), which is 1 / (k * processes) unless told
                otherwise.

        Returns:
            Sum of squares of the gradients that this process owns, times scale squared.
        """
        ...

    def apply_window(self, multiplier: float) -> None:
        """Updates the owned rows with gradients times scale times `multiplier`; ends the window.

        Args:
            multiplier: 1, or less where gradients are clipped.
        """
        ...

    def discard_window(self) -> None:
        """Forgets the gradients of the window; not collective."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class GradientSlot:
    """One variable's place in a window.

    Attributes:
        name: Of the variable.
        shape: Of the variable; the first size of one that may grow is None.
        sparse: Its gradients are rows, not whole arrays.
        local: Its gradients stay in this process.
        dtype: Of whole gradients, "bfloat16" as uint16; those of rows are float32. Sums are float32
            whatever it is, so one array and one exchange carries them all.
    """

    name: str
    shape: tuple[int | None, ...]
    sparse: bool
    local: bool
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"

    @property
    def dim(self) -> int:
        """Elements of a row."""
        return math.prod(size or 0 for size in self.shape[1:])


Gradient = NDArray[Any] | RowGradients


class GradientWindow:
    """The gradients of `k` micro-batches of all processes, and their mean.

    Dense gradients are added up in one flat array, rows of tables in one hash table per table, so
    a row costs the wire once however often the window touched it. At the end: one exchange for
    the dense gradients, with the sum of the weights, and one for the rows of all tables.

    Args:
        slots: The variables, the same everywhere.
        engine: Of the processes.
        k: Micro-batches of a window.
        participants: What else exchanges gradients at its end.
        clip_norm: Largest norm of all gradients together.
        wire: How gradients travel.
    """

    def __init__(
        self,
        slots: Sequence[GradientSlot],
        *,
        engine: Engine,
        k: int,
        participants: Sequence[WindowParticipant] = (),
        clip_norm: float | None = None,
        wire: Wire = "exact",
    ) -> None:
        self.slots = tuple(slots)
        self._engine, self._k, self._wire = engine, k, wire
        self._participants, self._clip_norm = tuple(participants), clip_norm
        self._dense = [i for i, slot in enumerate(slots) if not slot.sparse and not slot.local]
        self._tables = [i for i, slot in enumerate(slots) if slot.sparse and not slot.local]
        self._local = [i for i, slot in enumerate(slots) if not slot.sparse and slot.local]
        # The last slot: the sum of weights, then the rows of each table in this process.
        self._tail = np.zeros(1 + len(self._tables), np.float32)
        self._arena = _core.FusionArenaFloat32(
            [*self._shapes(self._dense), self._tail.shape],
            formats=[*(slots[i].dtype for i in self._dense), "float32"],
        )
        begin = self._arena.offsets[-1]
        self._exact = slice(begin, begin + self._tail.size)
        self._local_arena = _core.FusionArenaFloat32(
            self._shapes(self._local), formats=[slots[i].dtype for i in self._local]
        )
        self._rows = {i: RowAccumulator(slot.dim) for i, slot in enumerate(slots) if slot.sparse}
        self._as_rows: dict[int, bool] = {}
        self._choices: tuple[TableChoice, ...] = ()
        self.reset_choices()
        self._checked = False
        # Does any process have gradients that the others do not have? All know after the check.
        self._some_owned = bool(self._participants) or any(slot.local for slot in self.slots)
        self.discard()

    def _shapes(self, indices: list[int]) -> list[tuple[int, ...]]:
        return [self.slots[i].shape for i in indices]  # type: ignore[misc]

    @property
    def num_added(self) -> int:
        """Micro-batches in the window so far."""
        return self._num_added

    @property
    def is_full(self) -> bool:
        """Whether the window waits for its exchange."""
        return self._num_added == self._k

    @property
    def choices(self) -> tuple[TableChoice, ...]:
        """How the tables travelled in the last window; empty before the first exchange."""
        return self._choices

    def discard(self) -> None:
        """Forgets the micro-batches of the window."""
        self._num_added, self._weight = 0, 0.0
        self._arena.start_window()
        self._local_arena.start_window()
        for rows in self._rows.values():
            rows.discard()

    def add(self, gradients: Sequence[Gradient], *, weight: float) -> None:
        """Adds one micro-batch.

        Args:
            gradients: Per slot the gradient times `weight`; of variable's shape and of slot's
                dtype, or rows.
            weight: Of the micro-batch in the mean; nothing is added at 0.

        Raises:
            RuntimeError: The window is full.
        """
        if self.is_full:
            raise RuntimeError(f"the window has its {self._k} micro-batches; exchange it first")
        self._num_added += 1
        self._weight += weight
        if weight == 0.0:
            return
        self._arena.accumulate([*(gradients[i] for i in self._dense), self._tail])  # type: ignore[list-item]
        if self._local:
            self._local_arena.accumulate([gradients[i] for i in self._local])  # type: ignore[misc]
        for i, table in self._rows.items():
            rows, values = gradients[i]
            table.add(rows, values)

    def exchange(self) -> list[Gradient]:
        """Ends the window: the mean gradients over all micro-batches of all processes.

        The sharded participants have made their update when it returns.

        Returns:
            Per slot the gradient, of variable's shape and of slot's dtype, or distinct rows with
            theirs [n, dim].

        Raises:
            RuntimeError: The window is not full, or a process is gone.
            ValueError: The processes have different variables or `k`.
            FloatingPointError: A norm that is not finite, where gradients are clipped.
        """
        if not self.is_full:
            raise RuntimeError(
                f"the window has {self._num_added} of its {self._k} micro-batches; gradients are "
                "exchanged after the last"
            )
        try:
            self._check_layout()
            return self._exchange()
        except BaseException:
            for participant in self._participants:
                participant.discard_window()
            raise
        finally:
            self.discard()

    def _exchange(self) -> list[Gradient]:
        taken: dict[int, RowGradients] = {}
        for i, table in self._rows.items():
            sums = table.take()
            taken[i] = sums.rows, sums.sums
        gradients: list[Gradient | None] = [None] * len(self.slots)
        scale = self._exchange_shared(taken, gradients)
        for i, slot in enumerate(self.slots):
            if slot.local and slot.sparse:
                gradients[i] = _scaled(taken[i], scale)
        self._choose(gradients)
        scale *= self._finish(gradients, scale)
        for indices, arena in ((self._dense, self._arena), (self._local, self._local_arena)):
            for i, gradient in zip(indices, arena.unpack(scale=scale), strict=False):
                gradients[i] = gradient
        return gradients  # type: ignore[return-value]

    def reset_choices(self) -> None:
        """Forgets what is known of the tables; see `AccumulatingGradientTape.reset_choices`."""
        self._as_rows = dict.fromkeys(self._tables, True)
        self._choices = ()

    def _exchange_shared(
        self, taken: dict[int, RowGradients], gradients: list[Gradient | None]
    ) -> float:
        """Sums the dense gradients and those of the tables; the scale of the mean.

        Leaves the dense ones in the arena, not scaled.
        """
        fused = self._arena.fused
        for arena in (self._arena, self._local_arena):
            if arena.num_accumulated == 0:
                arena.fused[:] = 0.0
        fused[self._exact] = [self._weight, *(len(taken[i][0]) for i in self._tables)]
        whole = [i for i in self._tables if not self._as_rows[i]]
        wire = fused
        if whole:
            parts = [_as_table(taken[i], self.slots[i]) for i in whole]
            wire = np.concatenate([fused, *parts])
        as_rows = [i for i in self._tables if self._as_rows[i]]
        received = self._sum(wire, [taken[i] for i in as_rows])
        if whole:
            np.copyto(fused, wire[: fused.size])
        weight = float(fused[self._exact.start])
        scale = 1.0 / weight if weight > 0.0 else 0.0
        self._rows_per_process = fused[self._exact][1:] / self._engine.size
        begin = fused.size
        for i in whole:
            num_rows, dim = int(self.slots[i].shape[0] or 0), self.slots[i].dim
            table = wire[begin : begin + num_rows * (dim + 1)].reshape(num_rows, dim + 1)
            rows = np.flatnonzero(table[:, dim])
            gradients[i] = rows, table[rows, :dim] * np.float32(scale)
            begin += table.size
        if self._engine.size == 1:
            for i in as_rows:
                gradients[i] = _scaled(taken[i], scale)
            return scale
        dims = [self.slots[i].dim for i in as_rows]
        summed = merge_received(received, dims, scale, wire=self._wire)
        for i, of_table in zip(as_rows, summed, strict=True):
            gradients[i] = of_table
        return scale

    def _sum(
        self, wire: NDArray[np.float32], tables: Sequence[RowGradients]
    ) -> list[NDArray[np.uint8]]:
        """Sums `wire` over the processes; the packed `tables` of all of them, by rank.

        One process alone packs nothing.
        """
        engine, names = self._engine, ("feedfast_window_dense", "feedfast_window_rows")
        if engine.size == 1:
            return []
        rows = pack_tables(tables, wire=self._wire)
        if tables and self._wire == "exact":
            return engine.reduce_and_gather(wire, rows, names=names)
        figures = wire[self._exact].copy()
        engine.all_reduce(wire, name=names[0], wire=self._wire)
        if self._wire != "exact":  # a sum of weights in bfloat16 would have 8 bits
            engine.all_reduce(figures, name="feedfast_window_figures")
            wire[self._exact] = figures
        return engine.all_gather(rows, name=names[1]) if tables else []

    def _choose(self, gradients: Sequence[Gradient | None]) -> None:
        """Reports how the tables travelled, and decides how they will, from shared figures."""
        size, choices = self._engine.size, []
        for i, rows_per_process in zip(self._tables, self._rows_per_process.tolist(), strict=True):
            slot = self.slots[i]
            choices.append(
                TableChoice(
                    name=slot.name,
                    num_rows=slot.shape[0],
                    dim=slot.dim,
                    form="rows" if self._as_rows[i] else "table",
                    rows_per_process=rows_per_process,
                    union_rows=len(gradients[i][0]),  # type: ignore[index]
                    threshold=threshold_share(slot.dim, size, self._wire),
                )
            )
            self._as_rows[i] = rows_are_cheaper(
                rows_per_process, slot.shape[0], slot.dim, size, self._wire
            )
        self._choices = tuple(choices)

    def _finish(self, gradients: Sequence[Gradient | None], scale: float) -> float:
        """Lets the participants exchange and update, and clips rows; the multiplier of the rest.

        Args:
            gradients: Those of rows, scaled; None where the sums are in the arenas.
            scale: Of the mean.
        """
        squares = [participant.exchange_window(scale) for participant in self._participants]
        multiplier = 1.0
        if self._clip_norm is not None:
            rows = list(zip(self.slots, gradients, strict=True))
            shared = [g[1] for slot, g in rows if g is not None and not slot.local]
            local = [g[1] for slot, g in rows if g is not None and slot.local]
            sums = self._arena.fused[: self._exact.start]
            own_sums = self._local_arena.fused
            multiplier = clip_multiplier(
                self._engine,
                self._clip_norm,
                replicated=sum_of_squares(shared) + scale**2 * sum_of_squares([sums]),
                owned=sum_of_squares(local) + scale**2 * sum_of_squares([own_sums]) + sum(squares)
                if self._some_owned
                else None,
            )
            if multiplier < 1.0:
                for values in (*shared, *local):
                    values *= np.float32(multiplier)
        for participant in self._participants:
            participant.apply_window(multiplier)
        return multiplier

    def _check_layout(self) -> None:
        """One small exchange before the first window's: all processes train the same model."""
        if self._checked or self._engine.size == 1:
            return
        shared = [slot for slot in self.slots if not slot.local]
        layout = repr((self._k, self._wire, self._clip_norm, shared))
        digest = np.frombuffer(hashlib.sha256(layout.encode()).digest(), np.uint8)
        said = self._engine.all_gather(
            np.append(digest, np.uint8(self._some_owned)), name="feedfast_layout"
        )
        self._some_owned = any(other[-1] for other in said)
        for rank, other in enumerate(said):
            if not np.array_equal(other[:-1], digest):
                raise ValueError(
                    f"process {rank} has other variables, shapes, k, wire or clip_norm than "
                    f"process {self._engine.rank}, which has {layout}"
                )
        self._checked = True


def _scaled(taken: RowGradients, scale: float) -> RowGradients:
    """In place."""
    rows, values = taken
    values *= np.float32(scale)
    return rows, values


def _as_table(taken: RowGradients, slot: GradientSlot) -> NDArray[np.float32]:
    """[num_rows * (dim + 1)]: the gradients of all rows, and 1 behind those that were touched."""
    rows, values = taken
    table = np.zeros((slot.shape[0] or 0, slot.dim + 1), np.float32)
    table[rows, : slot.dim] = values
    table[rows, slot.dim] = 1.0
    return table.reshape(-1)
