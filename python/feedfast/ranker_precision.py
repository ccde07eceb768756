"""Number formats in which a ranker's tables and layers are stored; numpy is not needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from feedfast.quantize import RangeMethod
from feedfast.store import Layout

TablePrecision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
LayerPrecision = Literal["fp32", "bf16", "int8"]
Precision = TablePrecision
"""Of any section; layers have fewer."""

TABLE_PRECISIONS: tuple[TablePrecision, ...] = get_args(TablePrecision)
LAYER_PRECISIONS: tuple[LayerPrecision, ...] = get_args(LayerPrecision)

LAYOUT_OF: Mapping[TablePrecision, Layout] = {
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "int8": "int8_rowwise",
    "int4": "int4_rowwise",
}

TABLES = ("member_table", "hashtag_table", "leaf_table")
# Names that stand for several sections.
ALL_TABLES, ALL_LAYERS = "tables", "layers"


def range_method_of(precision: TablePrecision) -> RangeMethod:
    """Range of the codes when none is asked for: the search pays for the 16 levels of int4."""
    return "clip" if precision == "int4" else "minmax"


def resolve_precisions(
    wanted: str | Mapping[str, str], layers: Sequence[str]
) -> dict[str, Precision]:
    """The precision of every table and layer.

    Args:
        wanted: One precision for all tables; or precisions by name of a table, of a layer, or of
            all `tables` or `layers`. A name of one section goes before one of several; what is not
            named is fp32.
        layers: Names of the layers: `<tower>/<index>`, and `cross` for those of a cross network.

    Returns:
        By name: the tables, then the layers.

    Raises:
        ValueError: An unknown name, or a precision that the section cannot have.
    """
    by_name = {ALL_TABLES: wanted} if isinstance(wanted, str) else dict(wanted)
    allowed: dict[str, tuple[str, ...]] = {
        ALL_TABLES: TABLE_PRECISIONS,
        ALL_LAYERS: LAYER_PRECISIONS,
        **dict.fromkeys(TABLES, TABLE_PRECISIONS),
        **dict.fromkeys(layers, LAYER_PRECISIONS),
    }
    for name, precision in by_name.items():
        if name not in allowed:
            raise ValueError(
                f"precision: {name!r} is no table or layer; allowed: {', '.join(allowed)}"
            )
        if precision not in allowed[name]:
            raise ValueError(
                f"precision of {name} must be one of {', '.join(allowed[name])}; got {precision!r}"
            )
    resolved = {name: by_name.get(name, by_name.get(ALL_TABLES, "fp32")) for name in TABLES}
    resolved |= {name: by_name.get(name, by_name.get(ALL_LAYERS, "fp32")) for name in layers}
    return resolved  # type: ignore[return-value]


def parse_precisions(texts: Sequence[str]) -> str | dict[str, str]:
    """Command-line form of `resolve_precisions`' first argument.

    Args:
        texts: Comma-separated lists of `PRECISION`, for all tables, or `NAME=PRECISION`; the last
            one of a name counts.
    """
    by_name = {}
    for part in (part.strip() for text in texts for part in text.split(",")):
        name, equals, precision = part.partition("=")
        by_name[name if equals else ALL_TABLES] = precision if equals else name
    return by_name
