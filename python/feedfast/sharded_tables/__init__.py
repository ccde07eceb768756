"""Embedding tables whose parts live in several processes; docs/sharding.md."""

from __future__ import annotations

from feedfast.sharded_tables.initializers import Constant, Initializer, Normal, Uniform
from feedfast.sharded_tables.key_tables import KeyBags
from feedfast.sharded_tables.messages import BadBagsError
from feedfast.sharded_tables.sharded_tables import FetchedRows, ShardedTables
from feedfast.sharded_tables.sharded_vocabulary import ShardedVocabulary, lookup_rows
from feedfast.sharded_tables.table_spec import RowOptimization, TableSpec

__all__ = [
    "BadBagsError",
    "Constant",
    "FetchedRows",
    "Initializer",
    "KeyBags",
    "Normal",
    "RowOptimization",
    "ShardedTables",
    "ShardedVocabulary",
    "TableSpec",
    "Uniform",
    "lookup_rows",
]
