"""A plan: the placements of all tables of a model, as an object and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedfast.sharding.placement import Placement, Shard
from feedfast.sharding.table_shape import TableShape

FORMAT = "feedfast.sharding_plan"
FORMAT_VERSION = 1
# A plan of 4,096 ranks with a thousand row-wise tables has about 300 MB; anything above is not one.
MAX_JSON_BYTES = 512 << 20
# Ranks of the largest plan that is read: what `of_rank` and `memory_bytes` allocate stays small.
MAX_RANKS = 1 << 20

# Whole numbers below it are floats exactly.
_MAX_EXACT = 1 << 53
_SHARD_FIELDS = ("rank", "row_begin", "row_end", "column_begin", "column_end")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardingPlan:
    """Tables and their placements; valid by construction.

    Attributes:
        num_ranks: Processes; host h has ranks [h * ranks_per_host, (h + 1) * ranks_per_host).
        ranks_per_host: Divides `num_ranks`.
        tables: Shapes, in the order that all exchanges follow.
        placements: [len(tables)], the i-th is of the i-th table.

    Raises:
        ValueError: As `validate`.
    """

    num_ranks: int
    ranks_per_host: int
    tables: tuple[TableShape, ...]
    placements: tuple[Placement, ...]

    def __post_init__(self) -> None:
        self.validate()

    @property
    def num_hosts(self) -> int:
        """Number of hosts."""
        return self.num_ranks // self.ranks_per_host

    def validate(self) -> None:
        """Checks that every cell of every table has exactly one home, data-parallel tables and hot
        rows one on each rank.

        Raises:
            ValueError: It does not; names the table, the range, the rank.
        """
        if not 1 <= self.num_ranks <= MAX_RANKS:
            raise ValueError(f"num_ranks must be in [1, {MAX_RANKS}]; got {self.num_ranks}")
        if self.ranks_per_host < 1 or self.num_ranks % self.ranks_per_host:
            raise ValueError(
                f"ranks_per_host must divide num_ranks = {self.num_ranks}; "
                f"got {self.ranks_per_host}"
            )
        if len(self.tables) != len(self.placements):
            raise ValueError(f"{len(self.placements)} placements for {len(self.tables)} tables")
        names: set[str] = set()
        for table, placement in zip(self.tables, self.placements, strict=True):
            if table.name in names:
                raise ValueError(f"table {table.name!r} is there twice")
            names.add(table.name)
            placement.validate(table, num_ranks=self.num_ranks, ranks_per_host=self.ranks_per_host)

    def table(self, name: str) -> TableShape:
        """The shape of table `name`.

        Raises:
            KeyError: There is no such table.
        """
        return self.tables[self._index(name)]

    def placement(self, name: str) -> Placement:
        """The placement of table `name`.

        Raises:
            KeyError: There is no such table.
        """
        return self.placements[self._index(name)]

    def of_rank(self, rank: int) -> tuple[Shard, ...]:
        """The shards of `rank`, in the order of the tables; replicas of hot rows are not shards.

        Raises:
            ValueError: There is no such rank.
        """
        if not 0 <= rank < self.num_ranks:
            raise ValueError(f"rank {rank} is not in 0..{self.num_ranks - 1}")
        held = (placement.shard_of(rank) for placement in self.placements)
        return tuple(shard for shard in held if shard is not None)

    def memory_bytes(self) -> NDArray[np.int64]:
        """[num_ranks]: bytes of weights and optimizer state on each rank, hot rows included."""
        total = np.zeros(self.num_ranks, np.int64)
        for table, placement in zip(self.tables, self.placements, strict=True):
            total += table.part_bytes(placement.hot_rows, table.dim)
            for shard in placement.shards:
                total[shard.rank] += table.part_bytes(shard.rows, shard.columns)
        return total

    def lookups_per_example(self) -> NDArray[np.float64]:
        """[num_ranks]: rows that each rank reads per example of the global batch, were all rows of
        a table equally frequent; a part of a row counts by its share of the columns."""
        total = np.zeros(self.num_ranks)
        for table, placement in zip(self.tables, self.placements, strict=True):
            if placement.kind == "data_parallel":
                total += table.lookups_per_example / self.num_ranks
                continue
            total += table.lookups_per_example * placement.hot_rows / table.rows / self.num_ranks
            for shard in placement.shards:
                share = shard.cells / (table.rows * table.dim)
                total[shard.rank] += table.lookups_per_example * share
        return total

    def to_json(self) -> str:
        """The plan as JSON; `from_json` reads it back."""
        document = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "num_ranks": self.num_ranks,
            "ranks_per_host": self.ranks_per_host,
            "tables": [asdict(table) for table in self.tables],
            "placements": [
                {
                    "table": placement.table,
                    "kind": placement.kind,
                    "hot_rows": placement.hot_rows,
                    "shards": [
                        [getattr(shard, name) for name in _SHARD_FIELDS]
                        for shard in placement.shards
                    ],
                }
                for placement in self.placements
            ],
        }
        return json.dumps(document, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ShardingPlan:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: It is no plan: other format or version, a member missing, unknown or of
                another type, or a plan that does not validate.
        """
        if len(text) > MAX_JSON_BYTES:
            raise ValueError(f"sharding plan: {len(text)} bytes; allowed: {MAX_JSON_BYTES}")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"sharding plan: not JSON: {error}") from None
        members = _members(
            "sharding plan",
            document,
            {
                "format": str,
                "version": int,
                "num_ranks": int,
                "ranks_per_host": int,
                "tables": list,
                "placements": list,
            },
        )
        if members["format"] != FORMAT:
            raise ValueError(f"sharding plan: format is {members['format']!r}, not {FORMAT!r}")
        if members["version"] != FORMAT_VERSION:
            raise ValueError(
                f"sharding plan: version {members['version']} is unknown; "
                f"this program reads version {FORMAT_VERSION}"
            )
        return cls(
            num_ranks=members["num_ranks"],
            ranks_per_host=members["ranks_per_host"],
            tables=tuple(
                table_from_json(f"tables[{index}]", item)
                for index, item in enumerate(members["tables"])
            ),
            placements=tuple(
                _placement(f"placements[{index}]", item)
                for index, item in enumerate(members["placements"])
            ),
        )

    def _index(self, name: str) -> int:
        for index, table in enumerate(self.tables):
            if table.name == name:
                return index
        raise KeyError(name)


_TABLE_TYPES: dict[str, type] = {
    "name": str,
    "rows": int,
    "dim": int,
    "bytes_per_element": int,
    "lookups_per_example": float,
    "zipf": float,
    "order": str,
    "optimizer": str,
}


def table_from_json(where: str, item: object, *, required: Sequence[str] = ()) -> TableShape:
    """One table from parsed JSON.

    Args:
        where: What the item is called in messages.
        item: The parsed object.
        required: Members that have to be there; default: all.

    Raises:
        ValueError: A member is missing, unknown, of another type or out of its range.
    """
    try:
        return TableShape(**_members(where, item, _TABLE_TYPES, required or tuple(_TABLE_TYPES)))
    except ValueError as error:
        message = str(error)
        raise ValueError(message if message.startswith(where) else f"{where}: {message}") from None


def _placement(where: str, item: object) -> Placement:
    members = _members(where, item, {"table": str, "kind": str, "hot_rows": int, "shards": list})
    shards = []
    for index, row in enumerate(members["shards"]):
        if (
            not isinstance(row, list)
            or len(row) != len(_SHARD_FIELDS)
            or any(type(number) is not int for number in row)
        ):
            raise ValueError(
                f"{where}: shards[{index}] must be whole numbers [{', '.join(_SHARD_FIELDS)}]"
            )
        shards.append(Shard(members["table"], *row))
    return Placement(members["table"], members["kind"], tuple(shards), members["hot_rows"])


def _members(
    where: str, item: object, types: Mapping[str, type], required: Sequence[str] | None = None
) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise ValueError(f"{where}: must be an object; got {type(item).__name__}")
    for name in types if required is None else required:
        if name not in item:
            raise ValueError(f"{where}: member {name!r} is missing")
    for name, value in item.items():
        if name not in types:
            raise ValueError(f"{where}: member {name!r} is unknown; allowed: {', '.join(types)}")
        if types[name] is float and type(value) is int and abs(value) < _MAX_EXACT:
            continue
        if type(value) is not types[name]:
            raise ValueError(
                f"{where}: {name} must be {types[name].__name__}; got {type(value).__name__}"
            )
    return item
