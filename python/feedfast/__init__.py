"""feedfast: from raw string IDs to a ranked feed.

Importing this package loads numpy and the native kernels, nothing else. `feedfast.tf` needs
TensorFlow, `feedfast.data` needs pyarrow; both say what to install when it is missing.
"""

from __future__ import annotations

from feedfast._core import __version__
from feedfast.bags import Bags, pooled_lookup
from feedfast.cross_network import CrossNetwork, CrossWeights
from feedfast.gated_mlp import GatedLayer, GatedMLP
from feedfast.grouped_lookup import PooledFeature, pooled_lookup_grouped
from feedfast.live_vocabulary import LiveVocabulary
from feedfast.objectives import SegmentTradeoffs, Tradeoff
from feedfast.quantize import QuantizedTable
from feedfast.scorer import (
    BatchResult,
    Explanation,
    Request,
    RequestBatch,
    Result,
    Scorer,
    StageTimes,
)
from feedfast.store import ModelStore
from feedfast.table_memory import allocate_table
from feedfast.trees import LeafEncoder
from feedfast.vocab import Vocabulary

__all__ = [
    "Bags",
    "BatchResult",
    "CrossNetwork",
    "CrossWeights",
    "Explanation",
    "GatedLayer",
    "GatedMLP",
    "LeafEncoder",
    "LiveVocabulary",
    "ModelStore",
    "PooledFeature",
    "QuantizedTable",
    "Request",
    "RequestBatch",
    "Result",
    "Scorer",
    "SegmentTradeoffs",
    "StageTimes",
    "Tradeoff",
    "Vocabulary",
    "__version__",
    "allocate_table",
    "pooled_lookup",
    "pooled_lookup_grouped",
]
