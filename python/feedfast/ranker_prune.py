"""Leaves out of a published ranker what scoring does not need, and keeps the bits of the rest.

Rows go through the vocabulary: it stores a row per key then, so rows that remain move together and
several keys may share one. Keys are not stored, and none are needed. Nothing changes for ids whose
rows remain: the kernels read the same bytes from another place.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedfast import _core
from feedfast.ranker_artifact import VOCABULARIES, VOCABULARY, open_ranker
from feedfast.ranker_description import RankerDescription, tower_objectives
from feedfast.ranker_precision import TABLES
from feedfast.store import ModelStore, ModelVersion, ModelWriter, OpenedModel, Section
from feedfast.store.layouts import row_layout

EFFECTS = "random_effects"
# Tables whose rows a vocabulary finds; the leaf table has a row per leaf.
KEYED_TABLES = {"member_table": "member_vocabulary", "hashtag_table": "hashtag_vocabulary"}
EFFECTS_VOCABULARY = "random_effects_vocabulary"
_NEEDED = frozenset(
    (
        *(*TABLES, *VOCABULARIES, "forest", "normalizer", "towers", "calibrators"),
        *(EFFECTS, EFFECTS_VOCABULARY),
    )
)
_ROWS_AT_ONCE = 1 << 16
# Tensors of a layer with a column per output.
_PER_OUTPUT = ("weight", "bias", "weight_scale")
_PER_OUTPUT_GATE = ("gate_weight", "gate_bias", "gate_weight_scale")


@dataclass(frozen=True, kw_only=True, slots=True)
class TablePruning:
    """What became of the rows of one table.

    Attributes:
        name: Section of the table.
        rows: Before.
        kept_rows: After, row 0 included.
        untrained: Rows that were never trained; their keys are unknown now (row 0).
        near_zero: Rows within the limit of zero; their keys share one row of zeros (row 0 of random
            effects).
        bytes: Of table and vocabulary before.
        kept_bytes: Of both after. Equal where rows were left as they are, because the rows that the
            vocabulary stores would take more than they save.
    """

    name: str
    rows: int
    kept_rows: int
    untrained: int
    near_zero: int
    bytes: int
    kept_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneReport:
    """What `prune_ranker` did.

    Attributes:
        source: The version that was read.
        pruned: The version that was written.
        bytes, kept_bytes: Of all sections, before and after.
        tables: One per table with a vocabulary.
        objectives: That have no head any more.
        sections: Left out because a scorer does not read them, with their bytes.
    """

    source: ModelVersion
    pruned: ModelVersion
    bytes: int
    kept_bytes: int
    tables: tuple[TablePruning, ...]
    objectives: tuple[str, ...]
    sections: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _RowChange:
    """New rows of one table.

    Attributes:
        row_map: [rows] new row of every row.
        zero_row: New row that is all zeros; 0: none.
        vocabulary: That gives the new rows.
    """

    row_map: NDArray[np.int64]
    zero_row: int
    vocabulary: _core.Vocabulary

    def kept_rows(self) -> NDArray[np.int64]:
        """Old rows in their new order; of those that share one, the first."""
        return np.unique(self.row_map, return_index=True)[1]


@dataclass(frozen=True, slots=True)
class _Plan:
    """Changes by table, and by vocabulary the new one; tables that stay have none."""

    changes: dict[str, _RowChange] = field(default_factory=dict)
    reports: list[TablePruning] = field(default_factory=list)


def prune_ranker(
    store: ModelStore,
    model: str,
    version: str | int | None = None,
    *,
    zero_below: float | None = 0.0,
    row_updates: Mapping[str, NDArray[Any]] | None = None,
    drop_objectives: Collection[str] = (),
    name: str | None = None,
) -> PruneReport:
    """Writes a smaller version of a ranker into the same store.

    Sections that a scorer does not read, such as the slots of an optimizer, are left out. Rows that
    were never trained are dropped: their keys become unknown. Rows within `zero_below` of zero
    become one shared row of zeros. Heads of dropped objectives go with their calibrators and random
    effects. A candidate whose ids kept their rows gets the same bits for the objectives that
    remain; with `zero_below` 0 rows of zeros keep theirs too.

    Args:
        store: Where the ranker is and the result goes.
        model: Name of the model.
        version: Its number; None is the largest one.
        zero_below: Largest |w| of a row that counts as zero; None: keep such rows.
        row_updates: By table (`member_table`, `hashtag_table`): [rows] how often each row was
            trained, or whether; rows with 0 go. Row 0 stays.
        drop_objectives: Objectives whose heads go.
        name: Model name of the result; None: the same model, its next version.

    Raises:
        FileNotFoundError: No such model or version.
        ValueError: It is no ranker, a name or length in the arguments fits nothing it has, all
            objectives would go, or the outputs of the head depend on each other (a hidden gate).
    """
    opened = store.open(model, version)
    description, _ = open_ranker(opened)  # the sections fit together
    kept = _kept_objectives(description, drop_objectives)
    columns = _columns(description, kept)
    plan = _plan_rows(opened, zero_below, row_updates or {}, columns)
    with store.writer(name or model) as writer:
        for section in opened.manifest.sections.values():
            if section.name in _NEEDED:
                _write_section(writer, opened, section, plan, description, kept)
        smaller = _without_objectives(description, kept).to_json()
        # What would not open is not published.
        result = OpenedModel(store.path, writer.manifest(smaller), verify="header")
        open_ranker(result)
        number = writer.publish(smaller)
    source = ModelVersion(model, opened.manifest.version)
    pruned = ModelVersion(name or model, number)
    return PruneReport(
        source=source,
        pruned=pruned,
        bytes=sum(size.num_bytes for size in opened.section_sizes()),
        kept_bytes=sum(size.num_bytes for size in result.section_sizes()),
        tables=tuple(plan.reports),
        objectives=tuple(o.name for o in description.utility.objectives if o.name not in kept),
        sections={
            section.name: section.num_bytes
            for section in opened.manifest.sections.values()
            if section.name not in _NEEDED
        },
    )


# ---- rows


def _plan_rows(
    opened: OpenedModel,
    zero_below: float | None,
    row_updates: Mapping[str, NDArray[Any]],
    effect_columns: Sequence[int],
) -> _Plan:
    if zero_below is not None and not zero_below >= 0:
        raise ValueError(f"zero_below must be >= 0 or None; got {zero_below}")
    for table in row_updates:
        if table not in KEYED_TABLES:
            raise ValueError(
                f"row_updates: {table!r} is no table with a vocabulary; "
                f"allowed: {', '.join(KEYED_TABLES)}"
            )
    plan = _Plan()
    for table in KEYED_TABLES:
        section = opened.section(table, "table")
        largest = _largest(opened.table_view(table))
        trained = _trained(table, largest.size, row_updates)
        _consider(plan, opened, table, section.row_bytes, trained, largest, zero_below)
    if EFFECTS_VOCABULARY in opened.manifest.sections:
        coefficients = opened.tensors(EFFECTS)["coefficients"][:, effect_columns]
        largest = np.abs(coefficients).max(axis=1)
        trained = np.ones(largest.size, np.bool_)
        row_bytes = coefficients.itemsize * coefficients.shape[1]
        _consider(plan, opened, EFFECTS, row_bytes, trained, largest, zero_below)
    return plan


def _trained(
    table: str, num_rows: int, row_updates: Mapping[str, NDArray[Any]]
) -> NDArray[np.bool_]:
    """[num_rows] whether a row was trained; row 0 counts as such."""
    trained = np.ones(num_rows, np.bool_)
    if table in row_updates:
        updates = np.asarray(row_updates[table])
        if updates.shape != (num_rows,) or updates.dtype.kind not in "iub":
            raise ValueError(
                f"row_updates[{table!r}] must be [{num_rows}] integers or booleans; "
                f"got {updates.dtype} of shape {updates.shape}"
            )
        trained[1:] = updates[1:] != 0
    return trained


def _consider(
    plan: _Plan,
    opened: OpenedModel,
    table: str,
    row_bytes: int,
    trained: NDArray[np.bool_],
    largest: NDArray[np.float32],
    zero_below: float | None,
) -> None:
    """Takes a table into the plan when that saves bytes; `largest` [rows] is max |w| of a row."""
    near_zero = trained & (largest <= zero_below if zero_below is not None else False)
    near_zero[0] = False
    kept = trained & ~near_zero
    # An unknown item has no random effects, so there row 0 is the row of zeros.
    first_zero = int(near_zero.argmax()) if table != EFFECTS else 0
    kept[first_zero] |= near_zero[first_zero]
    row_map = np.where(kept, np.cumsum(kept) - 1, 0).astype(np.int64)
    zero_row = int(row_map[first_zero])
    row_map[near_zero] = zero_row

    vocabulary = _vocabulary_of(table)
    path = os.fsencode(opened.image_path(vocabulary, layout=VOCABULARY))
    before = opened.section(vocabulary, "image").num_bytes + kept.size * row_bytes
    mapped = _core.Vocabulary.open(path, "header").map_rows(row_map)
    after = memoryview(mapped).nbytes + int(kept.sum()) * row_bytes
    worth = after < before
    if worth:
        plan.changes[table] = _RowChange(row_map, zero_row, mapped)
    plan.reports.append(
        TablePruning(
            name=table,
            rows=kept.size,
            kept_rows=int(kept.sum()) if worth else kept.size,
            untrained=int((~trained).sum()) if worth else 0,
            near_zero=int(near_zero.sum()) if worth else 0,
            bytes=before,
            kept_bytes=after if worth else before,
        )
    )


def _vocabulary_of(table: str) -> str:
    return KEYED_TABLES.get(table, EFFECTS_VOCABULARY)


def _largest(table: _core.Table) -> NDArray[np.float32]:
    """[rows]: the largest |w| of every row, NaN where it has one."""
    largest = np.empty(table.num_rows, np.float32)
    for first in range(0, table.num_rows, _ROWS_AT_ONCE):
        rows = np.arange(first, min(first + _ROWS_AT_ONCE, table.num_rows))
        decoded = _core.pooled_lookup(
            table, rows, np.arange(rows.size + 1), None, pooling="sum", threads=1
        )
        largest[first : first + rows.size] = np.abs(decoded).max(axis=1)
    return largest


# ---- heads


def _kept_objectives(description: RankerDescription, dropped: Collection[str]) -> frozenset[str]:
    names = [objective.name for objective in description.utility.objectives]
    for name in dropped:
        if name not in names:
            raise ValueError(f"{name!r} is not an objective; allowed: {', '.join(names)}")
    kept = frozenset(names) - frozenset(dropped)
    if not kept:
        raise ValueError(f"no objective would be left of {', '.join(names)}")
    return kept


def _without_objectives(description: RankerDescription, kept: frozenset[str]) -> RankerDescription:
    utility = description.utility
    chosen = _columns(description, kept)
    smaller = dataclasses.replace(
        utility,
        objectives=tuple(utility.objectives[index] for index in chosen),
        weights=tuple(utility.weights[index] for index in chosen),
    )
    return dataclasses.replace(
        description,
        utility=smaller,
        towers={
            tower: layers
            for tower, layers in description.towers.items()
            if tower in tower_objectives(smaller)
        },
    )


def _cut_towers(
    tensors: Mapping[str, NDArray[Any]], description: RankerDescription, kept: frozenset[str]
) -> dict[str, NDArray[Any]]:
    """The tensors of `towers` with the columns of the kept objectives in the heads."""
    cut = dict(tensors)
    for tower, names in tower_objectives(description.utility).items():
        columns = [index for index, name in enumerate(names) if name in kept]
        if len(columns) == len(names):
            continue
        head = len(description.towers[tower]) - 1
        if columns and description.towers[tower][head].gate == "hidden":
            raise ValueError(
                f"tower {tower!r}: the head has a hidden gate, through which every output depends "
                "on all of them; its objectives cannot be dropped one by one"
            )
        for name in tensors:
            if not columns and name.startswith(f"{tower}/"):
                del cut[name]
            elif re.fullmatch(
                rf"{re.escape(tower)}/{head}/({'|'.join((*_PER_OUTPUT, *_PER_OUTPUT_GATE))})", name
            ):
                cut[name] = tensors[name][..., columns]
    return cut


# ---- sections


def _write_section(
    writer: ModelWriter,
    opened: OpenedModel,
    section: Section,
    plan: _Plan,
    description: RankerDescription,
    kept: frozenset[str],
) -> None:
    """Writes what is left of a section; one that stays as it is shares its blobs."""
    name = section.name
    if section.kind == "table" and name in plan.changes:
        change = plan.changes[name]
        writer.add_table_rows(
            name,
            opened.table(name),
            change.kept_rows(),
            layout=row_layout(section.layout).name,
            dim=section.shape[1],
            zero_row=change.zero_row or None,  # in every layout: scale and bias of codes are 0 too
        )
        return
    for table, change in plan.changes.items():
        if name == _vocabulary_of(table):
            writer.add_image(name, memoryview(change.vocabulary), layout=VOCABULARY)
            return
    if section.kind == "tensors":
        tensors = opened.tensors(name)
        left = dict(tensors)
        if name == EFFECTS and tensors:
            coefficients = tensors["coefficients"]
            if name in plan.changes:
                coefficients = coefficients[plan.changes[name].kept_rows()]
            left["coefficients"] = coefficients[:, _columns(description, kept)]
        elif name == "towers":
            left = _cut_towers(tensors, description, kept)
        elif name == "calibrators":
            left = {key: knots for key, knots in tensors.items() if key.rsplit("/", 1)[0] in kept}
        writer.add_tensors(name, left)
        return
    writer.add_present(section)


def _columns(description: RankerDescription, kept: frozenset[str]) -> list[int]:
    objectives = description.utility.objectives
    return [index for index, objective in enumerate(objectives) if objective.name in kept]
