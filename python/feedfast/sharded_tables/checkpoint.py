"""Checkpoints of sharded tables that load under any other division.

A checkpoint is a folder. Every rank writes one safetensors file with what it holds, in parallel;
replicas are divided by rows between the ranks. The manifest, `tables.json`, is written last and
replaced whole: it says which ranges of rows and columns of which table lie in which file, and is
all that makes files a checkpoint. Files that it does not name are of saves that were not finished
or of earlier ones; the next save removes them.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedfast.sharded_tables import part_folder
from feedfast.sharded_tables.agreement import all_or_none
from feedfast.sharded_tables.layout import Piece
from feedfast.sharded_tables.part_folder import part_name, save_parts
from feedfast.sharded_tables.sharded_tables import ShardedTables
from feedfast.sharded_tables.table_part import TablePart
from feedfast.store import files, tensor_file

MANIFEST = "tables.json"
FORMAT = "feedfast-sharded-tables"
FORMAT_VERSION = 2
_VERSIONS = range(1, FORMAT_VERSION + 1)
MAX_MANIFEST_BYTES = 256 << 20

_FILE_NAME = part_name(r"\.safetensors")
_ALIGN = 64


@dataclass(frozen=True, slots=True)
class StoredPart:
    """Rows and columns of a table in a file.

    Its tensors are `N/weights` [rows, columns] and `N/state0`, ... [rows, columns] or, of row-wise
    states, [rows], where N is `number`.
    """

    table: str
    row_begin: int
    row_end: int
    column_begin: int
    column_end: int
    file: str
    number: int


@dataclass(frozen=True, slots=True)
class StoredTable:
    """What a checkpoint says of a table: its size and dtype, and the rule whose states it has."""

    name: str
    rows: int
    dim: int
    rule: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of `tables.json`."""

    updates: int
    tables: tuple[StoredTable, ...]
    parts: tuple[StoredPart, ...]

    def to_json(self) -> bytes:
        """The bytes of the file; of version 1, which has no dtypes, where all are float32."""
        tables = [asdict(table) for table in self.tables]
        version = 1 if all(table["dtype"] == "float32" for table in tables) else FORMAT_VERSION
        if version == 1:
            for table in tables:
                del table["dtype"]
        return json.dumps(
            {
                "format": FORMAT,
                "version": version,
                "updates": self.updates,
                "tables": tables,
                "parts": [asdict(part) for part in self.parts],
            },
            separators=(",", ":"),
        ).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Manifest:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: It is something else.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not JSON: {error}") from None
        expected = {"format", "version", "updates", "tables", "parts"}
        if not isinstance(document, dict) or set(document) != expected:
            raise ValueError(f"not an object of {', '.join(sorted(expected))}")
        version = document["version"]
        if document["format"] != FORMAT or type(version) is not int or version not in _VERSIONS:
            raise ValueError(
                f"format {document['format']!r} of version {version!r}; this program reads "
                f"{FORMAT!r} of versions {', '.join(map(str, _VERSIONS))}"
            )
        if type(document["updates"]) is not int or document["updates"] < 0:
            raise ValueError(f"updates is {document['updates']!r}; needs a number of at least 0")
        manifest = cls(
            document["updates"],
            tuple(_tables(document["tables"], version)),
            tuple(_record(StoredPart, "parts", document["parts"])),
        )
        manifest._check()
        return manifest

    def _check(self) -> None:
        tables = {table.name: table for table in self.tables}
        for part in self.parts:
            table = tables.get(part.table)
            if table is None:
                raise ValueError(f"a part is of the unknown table {part.table!r}")
            if not (
                0 <= part.row_begin < part.row_end <= table.rows
                and 0 <= part.column_begin < part.column_end <= table.dim
            ):
                raise ValueError(
                    f"table {part.table!r}: rows [{part.row_begin}, {part.row_end}), columns "
                    f"[{part.column_begin}, {part.column_end}) are not in [{table.rows}, "
                    f"{table.dim}]"
                )
            if not _FILE_NAME.match(part.file):
                raise ValueError(f"table {part.table!r}: {part.file!r} is no name of a file here")
        of_table: dict[str, list[StoredPart]] = {table.name: [] for table in self.tables}
        for part in self.parts:
            of_table[part.table].append(part)
        for table in self.tables:
            _check_tiles(table, of_table[table.name])


def save_tables(tables: ShardedTables, folder: Path) -> None:
    """Saves weights, optimizer states and the number of updates; collective.

    Whenever a process or the machine dies, the folder holds the checkpoint that it held before or
    the new one, whole. What is in the window is not saved.

    Args:
        tables: Between two windows.
        folder: The same for all ranks, on a file system that all of them see; created where it is
            missing. One save at a time.

    Raises:
        OSError: A file of this rank cannot be written; what was saved before stays.
        RuntimeError: The same of another rank.
    """

    def describe(parts: list[dict[str, Any]]) -> bytes:
        stored_tables = tuple(
            StoredTable(spec.name, spec.rows, spec.dim, spec.optimizer.rule, spec.dtype)
            for spec in tables.specs
        )
        stored_parts = tuple(StoredPart(**part) for part in parts)
        return Manifest(tables.updates, stored_tables, stored_parts).to_json()

    save_parts(
        tables.engine,
        folder,
        MANIFEST,
        name="sharded_save",
        written=_FILE_NAME,
        write=lambda prefix: _write_own(
            tables, folder, f"{prefix}{tables.engine.rank:05d}.safetensors"
        ),
        describe=describe,
    )
    tables.reset_choices()


def load_tables(tables: ShardedTables, folder: Path) -> None:
    """Loads what `save_tables` saved, on any number of ranks under any plan; collective.

    Weights and states get the bits that were saved. Every rank reads the ranges that it holds and
    no others.

    Args:
        tables: Of the same names, sizes and rules; what is in their window is forgotten.
        folder: Of the checkpoint.

    Raises:
        OSError: There is none, or a file cannot be read.
        ValueError: It is damaged, or of other tables; names table, file and what is wrong.
        RuntimeError: One of these on another rank. The tables are then of no use.
    """

    def read() -> int:
        manifest = read_manifest(folder)
        _check_tables(manifest, tables)
        sources = _Sources(folder, manifest)
        for part in [*tables.parts.values(), *tables.replicas.values()]:
            name = tables.specs[part.piece.table].name
            _read_part(name, part, sources)
        return manifest.updates

    updates, _ = all_or_none(tables.engine, "sharded_load", read, share=lambda _: "")
    tables.updates = updates
    tables.discard_window()
    tables.reset_choices()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint.

    Raises:
        OSError: There is none.
        ValueError: It is damaged; names the file.
    """
    return part_folder.read_manifest(
        folder / MANIFEST, Manifest.from_json, most_bytes=MAX_MANIFEST_BYTES
    )


def _write_own(tables: ShardedTables, folder: Path, file: str) -> list[StoredPart]:
    """Writes what this rank saves; returns where it lies."""
    arrays: dict[str, NDArray[Any]] = {}
    stored: list[StoredPart] = []
    for part, low, high in _saved_by(tables, tables.engine.rank):
        piece = part.piece
        number = len(stored)
        stored.append(
            StoredPart(
                tables.specs[piece.table].name,
                piece.row_begin + low,
                piece.row_begin + high,
                piece.column_begin,
                piece.column_end,
                file,
                number,
            )
        )
        for name, array in arrays_of(part).items():
            arrays[f"{number}/{name}"] = array[low:high]
    header, order = tensor_file.plan_header(
        {name: (array.dtype, array.shape) for name, array in arrays.items()}, align=_ALIGN
    )
    data = [arrays[name].reshape(-1).view(np.uint8).data for name in order]
    files.replace_durably(folder / file, [header, *data])
    return stored


def _saved_by(tables: ShardedTables, rank: int) -> Iterable[tuple[TablePart, int, int]]:
    """The parts that a rank saves, with the range of their rows."""
    for part in tables.parts.values():
        yield part, 0, part.piece.rows
    size = tables.engine.size
    for part in tables.replicas.values():
        low, high = (part.piece.rows * (rank + i) // size for i in (0, 1))
        if low < high:
            yield part, low, high


def arrays_of(part: TablePart) -> dict[str, NDArray[Any]]:
    """What is saved of a part, by name: `weights` (bfloat16 as its bits), `state0`, ..."""
    return {"weights": part.weights, **{f"state{i}": state for i, state in enumerate(part.states)}}


class _Sources:
    """The arrays of a checkpoint, mapped when they are first read."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder = folder
        self._headers: dict[str, tensor_file.TensorHeader] = {}
        self._by_table: dict[str, list[StoredPart]] = {}
        for part in manifest.parts:
            self._by_table.setdefault(part.table, []).append(part)

    def overlapping(self, table: str, piece: Piece) -> list[StoredPart]:
        """The stored parts that have cells of `piece`."""
        return [
            part
            for part in self._by_table.get(table, ())
            if part.row_begin < piece.row_end
            and piece.row_begin < part.row_end
            and part.column_begin < piece.column_end
            and piece.column_begin < part.column_end
        ]

    def array(
        self, part: StoredPart, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """A tensor of a part, mapped.

        Raises:
            ValueError: The file does not have it in this shape and dtype.
        """
        path = self._folder / part.file
        if part.file not in self._headers:
            try:
                self._headers[part.file] = tensor_file.read_header(path)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
        header = self._headers[part.file]
        spec = header.tensors.get(f"{part.number}/{name}")
        if spec is None or spec.shape != shape or spec.dtype != dtype:
            found = "nothing" if spec is None else f"{spec.dtype} of shape {spec.shape}"
            raise ValueError(
                f"{path}: tensor '{part.number}/{name}' of table {part.table!r} must be {dtype} of "
                f"shape {shape}; found {found}"
            )
        return np.memmap(path, dtype, "r", header.data_start + spec.begin, shape)


def _read_part(table: str, part: TablePart, sources: _Sources) -> None:
    piece = part.piece
    for stored in sources.overlapping(table, piece):
        rows = _overlap((stored.row_begin, stored.row_end), (piece.row_begin, piece.row_end))
        columns = _overlap(
            (stored.column_begin, stored.column_end), (piece.column_begin, piece.column_end)
        )
        num_rows = stored.row_end - stored.row_begin
        num_columns = stored.column_end - stored.column_begin
        for name, array in arrays_of(part).items():
            # Of a row-wise state every range of columns has all.
            is_rowwise = array.ndim == 1
            shape = (num_rows,) if is_rowwise else (num_rows, num_columns)
            source = sources.array(stored, name, shape, array.dtype)
            to_rows, from_rows = rows
            if is_rowwise:
                array[to_rows] = source[from_rows]
            else:
                to_columns, from_columns = columns
                array[to_rows, to_columns] = source[from_rows, from_columns]


def _check_tiles(table: StoredTable, parts: Sequence[StoredPart]) -> None:
    """Every weight of a table must be in one part.

    From one row at which a part begins or ends to the next, the columns of the parts that have
    these rows must follow each other.
    """
    coming = deque(sorted(parts, key=lambda part: part.row_begin))
    ends = {row for part in parts for row in (part.row_begin, part.row_end)}
    current: list[StoredPart] = []
    for row, next_row in pairwise(sorted({0, table.rows} | ends)):
        current = [part for part in current if part.row_end > row]
        while coming and coming[0].row_begin == row:
            current.append(coming.popleft())
        column = 0
        wrong = "no part"
        for part in sorted(current, key=lambda part: part.column_begin):
            if part.column_begin < column:
                wrong, column = "two parts", part.column_begin
            if part.column_begin != column or wrong != "no part":
                break
            column = part.column_end
        else:
            if column == table.dim:
                continue
        raise ValueError(
            f"table {table.name!r}: weights of rows [{row}, {next_row}) from column {column} on "
            f"are in {wrong}"
        )


def _overlap(stored: tuple[int, int], wanted: tuple[int, int]) -> tuple[slice, slice]:
    """Where the common part of two ranges lies in what is wanted, and in what is stored."""
    low, high = max(stored[0], wanted[0]), min(stored[1], wanted[1])
    return slice(low - wanted[0], high - wanted[0]), slice(low - stored[0], high - stored[0])


def _check_tables(manifest: Manifest, tables: ShardedTables) -> None:
    stored = {table.name: table for table in manifest.tables}
    wanted = {
        spec.name: StoredTable(spec.name, spec.rows, spec.dim, spec.optimizer.rule, spec.dtype)
        for spec in tables.specs
    }
    if stored.keys() != wanted.keys():
        raise ValueError(f"the checkpoint has tables {sorted(stored)}; needs {sorted(wanted)}")
    for name, table in wanted.items():
        if stored[name] != table:
            raise ValueError(f"the checkpoint has {stored[name]}; needs {table}")


def _tables(items: object, version: int) -> Sequence[StoredTable]:
    if version == 1 and isinstance(items, list):
        items = [{**item, "dtype": "float32"} if isinstance(item, dict) else item for item in items]
    return _record(StoredTable, "tables", items)


def _record(kind: type[Any], where: str, items: object) -> Sequence[Any]:
    """Objects of JSON as the dataclass `kind`, whose fields are str and int."""
    if not isinstance(items, list):
        raise ValueError(f"{where} is not a list")
    types: Mapping[str, type] = {
        field.name: str if field.type == "str" else int for field in fields(kind)
    }
    records = []
    for index, item in enumerate(items):
        if not isinstance(item, dict) or item.keys() != types.keys():
            raise ValueError(f"{where}[{index}] is not an object of {', '.join(types)}")
        for name, value in item.items():
            if type(value) is not types[name]:
                raise ValueError(f"{where}[{index}]: {name} is {value!r}")
        records.append(kind(**item))
    return records
