"""A log together with what its labels mean."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feedfast.data.log import ImpressionLog, superset_label, write_parquet
from feedfast.data.schema import LABEL_PREFIX
from feedfast.objectives import Objective, check_objectives

# The superset objective that has no column: a passive or an active objective happened.
ANY_ENGAGEMENT = "any"


# Metadata keys of a label field and of the file, which `loading` reads back.
GROUP_KEY = b"feedfast.group"
SUPERSET_KEY = b"feedfast.superset"


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Dataset:
    """An impression log and the meaning of its labels.

    Attributes:
        log: The impressions.
        objectives: One per label column of the log, in its order.
        superset: The objective that happens whenever one of the others does; the forest is trained
            on it. A label column, or ANY_ENGAGEMENT.
        name: Short name for reports.
        notes: Facts about the data that a reader of results must know, one sentence each.
    """

    log: ImpressionLog
    objectives: tuple[Objective, ...]
    superset: str
    name: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_objectives(self.objectives)
        names = tuple(objective.name for objective in self.objectives)
        if names != self.log.objective_names:
            raise ValueError(
                f"dataset {self.name!r}: objectives are {names}; "
                f"the log has labels {self.log.objective_names}"
            )
        if self.superset not in (*names, ANY_ENGAGEMENT):
            raise ValueError(
                f"dataset {self.name!r}: superset must be {ANY_ENGAGEMENT!r} or one of "
                f"{', '.join(names)}; got {self.superset!r}"
            )

    def superset_label(self) -> NDArray[np.float32]:
        """[n] float32, 0, 1 or NaN: the superset objective, without what creators do."""
        if self.superset in self.log.objective_names:
            return self.log.label(self.superset)
        return superset_label(self.log, [o.name for o in self.objectives if o.group != "other"])

    def engaged(self) -> NDArray[np.bool_]:
        """[n] bool: rows that enter the viewer's history: their superset label is 1."""
        engaged: NDArray[np.bool_] = self.superset_label() == 1
        return engaged

    def write_parquet(self, path: str | os.PathLike[str]) -> None:
        """Writes one Parquet file; its metadata carries groups and superset for `load`."""
        table = self.log.to_table()
        schema = table.schema
        for objective in self.objectives:
            index = schema.get_field_index(LABEL_PREFIX + objective.name)
            schema = schema.set(
                index, schema.field(index).with_metadata({GROUP_KEY: objective.group.encode()})
            )
        write_parquet(
            table.cast(schema.with_metadata({SUPERSET_KEY: self.superset.encode()})), path
        )
