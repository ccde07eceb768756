"""feedfast: from raw string IDs to a ranked feed.

Importing this package loads numpy and the native kernels, nothing else. `feedfast.tf` needs
TensorFlow, `feedfast.data` needs pyarrow; both say what to install when it is missing.
"""

from __future__ import annotations

from feedfast._core import __version__
from feedfast.gated_mlp import GatedLayer, GatedMLP
from feedfast.trees import LeafEncoder

__all__ = ["GatedLayer", "GatedMLP", "LeafEncoder", "__version__"]
