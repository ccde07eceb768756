"""The tape needs TensorFlow; its own import warnings are not ours."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import feedfast.tf  # noqa: F401
