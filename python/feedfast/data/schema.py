"""The impression-log schema: which columns and types a log has. docs/data.md describes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import types

SHARED_PREFIX = "shared."
DENSE_PREFIX = "dense."
LABEL_PREFIX = "label."
ID_COLUMNS = ("request_id", "viewer", "item", "actor", "root_actor")
POLICIES = ("random", "model")


class SchemaError(ValueError):
    """The columns or types of a table are not those of an impression log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogSchema:
    """Names that differ from log to log, without their prefix, in column order.

    Attributes:
        shared: Features of the viewer or the request.
        dense: Features of the candidate.
        objectives: Labels.
        ignored: Columns the schema does not know.
    """

    shared: tuple[str, ...]
    dense: tuple[str, ...]
    objectives: tuple[str, ...]
    ignored: tuple[str, ...]


def check_schema(schema: pa.Schema, *, source: str) -> LogSchema:
    """Checks that every column of an impression log is there, once, with an allowed type.

    Args:
        schema: Arrow schema of a table or a Parquet file.
        source: What the message calls the table, such as its path.

    Raises:
        SchemaError: Names the column, the type found and the type allowed.
    """
    seen: set[str] = set()
    for name in schema.names:
        if name in seen:
            raise SchemaError(f"{source}: column {name!r} occurs twice")
        seen.add(name)
    for name, (allowed, accepts) in _FIXED_COLUMNS.items():
        if name not in seen:
            raise SchemaError(f"{source}: column {name!r} is missing; it must be {allowed}")
        _check_type(schema.field(name), allowed, accepts, source=source)
    found: dict[str, list[str]] = {SHARED_PREFIX: [], DENSE_PREFIX: [], LABEL_PREFIX: []}
    ignored = []
    for name in schema.names:
        prefix = next((p for p in found if name.startswith(p)), None)
        if prefix is None:
            if name not in _FIXED_COLUMNS:
                ignored.append(name)
            continue
        if name == prefix:
            raise SchemaError(f"{source}: column {name!r} has no name after the dot")
        _check_type(schema.field(name), "a number or bool", _is_number, source=source)
        found[prefix].append(name.removeprefix(prefix))
    return LogSchema(
        shared=tuple(found[SHARED_PREFIX]),
        dense=tuple(found[DENSE_PREFIX]),
        objectives=tuple(found[LABEL_PREFIX]),
        ignored=tuple(ignored),
    )


def require_no_duplicates(names: Iterable[str], *, what: str) -> None:
    """Raises ValueError naming the first name that occurs twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what}: {name!r} occurs twice")
        seen.add(name)


def _check_type(
    field: pa.Field, allowed: str, accepts: Callable[[pa.DataType], bool], *, source: str
) -> None:
    if not accepts(field.type):
        raise SchemaError(
            f"{source}: column {field.name!r} has type {field.type}; it must be {allowed}"
        )


def _is_text(data_type: pa.DataType) -> bool:
    kinds = (types.is_string, types.is_large_string, types.is_string_view)
    return any(is_kind(data_type) for is_kind in kinds)


def is_key(data_type: pa.DataType) -> bool:
    """Whether a column of this type holds keys: strings or binaries, plain or in a dictionary."""
    if types.is_dictionary(data_type):
        return is_key(data_type.value_type)
    binary = (
        types.is_binary,
        types.is_large_binary,
        types.is_binary_view,
        types.is_fixed_size_binary,
    )
    return _is_text(data_type) or any(is_kind(data_type) for is_kind in binary)


def is_key_list(data_type: pa.DataType) -> bool:
    """Whether a column of this type holds lists of keys."""
    kinds = (
        types.is_list,
        types.is_large_list,
        types.is_fixed_size_list,
        types.is_list_view,
        types.is_large_list_view,
    )
    return any(is_kind(data_type) for is_kind in kinds) and (
        is_key(data_type.value_type) or types.is_null(data_type.value_type)
    )


def _is_policy(data_type: pa.DataType) -> bool:
    return _is_text(data_type.value_type if types.is_dictionary(data_type) else data_type)


def _is_number(data_type: pa.DataType) -> bool:
    kinds = (types.is_floating, types.is_integer, types.is_boolean, types.is_null)
    return any(is_kind(data_type) for is_kind in kinds)


def _is_propensity(data_type: pa.DataType) -> bool:
    return bool(types.is_floating(data_type) or types.is_null(data_type))


_KEY = "string or binary"
_FIXED_COLUMNS: dict[str, tuple[str, Callable[[pa.DataType], bool]]] = {
    "request_id": (_KEY, is_key),
    "timestamp": ("timestamp", types.is_timestamp),
    "viewer": (_KEY, is_key),
    "item": (_KEY, is_key),
    "actor": (_KEY, is_key),
    "root_actor": (_KEY, is_key),
    "hashtags": ("a list of string or binary", is_key_list),
    "position": ("an integer", types.is_integer),
    "policy": ("string", _is_policy),
    "propensity": ("floating point", _is_propensity),
}
