"""Drop-in TensorFlow ops and Keras layers on feedfast's kernels (`import feedfast.tf as fft`).

The op library is loaded when this package is imported, so that SavedModels with feedfast ops load
after `import feedfast.tf`.
"""

from __future__ import annotations

from feedfast.tf import _library

_library.ops()

from feedfast.tf import (  # noqa: E402  (they define gradients of the loaded ops)
    distributed,
    layers,
    ops,
    optimizers,
)
from feedfast.tf.pooled_lookup import (  # noqa: E402
    embedding_lookup_sparse,
    safe_embedding_lookup_sparse,
)
from feedfast.tf.vocabulary import VocabularyTable  # noqa: E402

__all__ = [
    "VocabularyTable",
    "distributed",
    "embedding_lookup_sparse",
    "layers",
    "ops",
    "optimizers",
    "safe_embedding_lookup_sparse",
]
