"""One process's values for all, before the first step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from feedfast.comm import Engine, connect
from feedfast.tf.distributed.variables import local_variable_ids, resource_of

__all__ = ["broadcast_variables"]


def broadcast_variables(
    variables: Iterable[Any],
    engine: Engine | None = None,
    *,
    root: int = 0,
    local_layers: Sequence[Any] = (),
) -> None:
    """Gives replicated variables the values that they have in process `root`; collective.

    Args:
        variables: Keras or TensorFlow variables in the same order everywhere: those of the model,
            and of the optimizer where it has states already.
        engine: Of the processes; default `feedfast.comm.connect()`.
        root: The process whose values all get.
        local_layers: Layers or variables that are each process's own, and stay as they are. They
            must be built. Sharded tables are no variables and need no mention.

    Raises:
        RuntimeError: Inside a `tf.function`, or a process is gone.
        ValueError: A variable has another size elsewhere.
    """
    if not tf.executing_eagerly():
        raise RuntimeError("broadcast_variables works outside of tf.function, before training")
    engine = connect() if engine is None else engine
    local = local_variable_ids(local_layers)
    if engine.size == 1:
        return
    for variable in variables:
        resource = resource_of(variable)
        if id(resource) in local:
            continue
        value = np.array(resource.numpy(), order="C")
        # Bytes, because engines do not know TensorFlow's bfloat16.
        engine.broadcast(
            value.reshape(-1).view(np.uint8), root=root, name=f"feedfast_broadcast_{value.nbytes}"
        )
        resource.assign(value)
