"""Where TensorFlow's time goes, from its own profiler: operations by stage of a request."""

from __future__ import annotations

import collections
import tempfile
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

# Stage of an operation; what is not listed is `rest`, and `trees` is xgboost's.
STAGE_OF = {
    **dict.fromkeys(("LookupTableFindV2", "LookupTableFind"), "strings"),
    **dict.fromkeys(
        (
            *("ResourceGather", "GatherV2", "Unique", "Sum", "RaggedTensorToSparse"),
            *("SparseSegmentMean", "SparseSegmentSum", "SparseFillEmptyRows", "SparseReshape"),
        ),
        "lookups",
    ),
    **dict.fromkeys(
        (
            *("_MklNativeFusedMatMul", "_FusedMatMul", "_MklMatMul", "MatMul"),
            *("BiasAdd", "Relu", "Sigmoid", "Mul"),
        ),
        "dense",
    ),
}


def stage_seconds(function: Callable[[], object], calls: int) -> dict[str, float]:
    """Seconds per call in operations of each stage; they run one after the other on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        try:
            for _ in range(calls):
                function()
        finally:
            tf.profiler.experimental.stop()
        (path,) = Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    seconds: collections.Counter[str] = collections.Counter()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                # An operation is <name>:<type>; other events hold several.
                kind = plane.event_metadata[event.metadata_id].name.rpartition(":")[2]
                if kind in STAGE_OF:
                    seconds[STAGE_OF[kind]] += 1e-12 * event.duration_ps / calls
    return dict(seconds)
