"""The variables of TensorFlow behind those of Keras."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

__all__ = ["local_variable_ids", "resource_of"]


def resource_of(variable: Any) -> Any:
    """The tf.Variable of a Keras variable, or the tf.Variable itself.

    Raises:
        TypeError: It is neither.
    """
    if isinstance(variable, keras.Variable):
        return variable.value
    if isinstance(variable, tf.Variable):
        return variable
    raise TypeError(f"a Keras or TensorFlow variable is needed; got {type(variable).__name__}")


def local_variable_ids(local_layers: Sequence[Any]) -> set[int]:
    """Identities of the variables of layers (anything with `variables`), or of the variables.

    Raises:
        TypeError: Something else is among them.
        ValueError: A layer is not built and has no variables to know.
    """
    found: set[int] = set()
    for layer in local_layers:
        if isinstance(layer, keras.Variable | tf.Variable):
            found.add(id(resource_of(layer)))
            continue
        variables: Iterable[Any] | None = getattr(layer, "variables", None)
        if variables is None:
            raise TypeError(f"local_layers holds layers and variables; got {type(layer).__name__}")
        if not getattr(layer, "built", True):
            raise ValueError(
                f"layer {layer.name!r} of local_layers is not built: call it on one batch first"
            )
        found.update(id(resource_of(variable)) for variable in variables)
    return found
