"""What a SavedModel is made of, beside the sections of a model store."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf

from feedfast.ranker_precision import TABLES
from feedfast.store import OpenedModel

VOCABULARIES, LAYERS, GRAPH = "vocabularies", "layers and scaling", "forest and graph"


def compare_sizes(
    opened: OpenedModel, saved_model: str | os.PathLike[str]
) -> list[tuple[str, int, int]]:
    """Bytes of a model in a store and of a SavedModel of the same model, by what they are for.

    Args:
        opened: The model in the store.
        saved_model: Folder of the SavedModel.

    Returns:
        (part, bytes in the store, bytes in the SavedModel): each table, then vocabularies, layers
        and scaling, and forest and graph. A variable of the SavedModel belongs to a table if it has
        its shape and, where two tables have one shape, its name; optimizer slots of a table do so
        too. Assets are vocabularies, other variables layers, the rest is graph, in which stock
        lookup tables keep their keys.

    Raises:
        FileNotFoundError: There is no SavedModel.
    """
    shapes = {name: opened.section(name, "table").shape for name in TABLES}
    stored = {**dict.fromkeys(TABLES, 0), VOCABULARIES: 0, LAYERS: 0, GRAPH: 0}
    for size in opened.section_sizes():
        if size.name in stored:
            part = size.name
        elif size.name.endswith("vocabulary"):
            part = VOCABULARIES
        else:
            part = GRAPH if size.name == "forest" else LAYERS
        stored[part] += size.num_bytes
    saved = _saved_model_sizes(Path(saved_model), shapes)
    return [(part, num_bytes, saved[part]) for part, num_bytes in stored.items()]


def _saved_model_sizes(folder: Path, tables: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    if not (folder / "saved_model.pb").is_file():
        raise FileNotFoundError(f"{folder} is no SavedModel: it has no saved_model.pb")
    files = {p: p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    assets = sum(n for p, n in files.items() if p.parent.name == "assets")
    variables = sum(n for p, n in files.items() if p.parent.name == "variables")
    sizes = {**dict.fromkeys(tables, 0), VOCABULARIES: assets, LAYERS: variables}
    if variables:
        for name, shape in tf.train.list_variables(str(folder / "variables" / "variables")):
            table = _table_of(name, tuple(shape), tables)
            if table is not None:
                num_bytes = 4 * math.prod(shape)
                sizes[table] += num_bytes
                sizes[LAYERS] -= num_bytes
    return {**sizes, GRAPH: sum(files.values()) - assets - variables}


def _table_of(
    name: str, shape: tuple[int, ...], tables: Mapping[str, tuple[int, ...]]
) -> str | None:
    same = [table for table, table_shape in tables.items() if tuple(table_shape) == shape]
    return same[0] if len(same) == 1 else next((table for table in same if table in name), None)
