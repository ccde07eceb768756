"""Keras layer for embedding tables whose rows are pooled over bags."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from feedfast.tf.fused_optimizer import FusedOptimizer
from feedfast.tf.growable_variable import GrowableVariable, add_growable
from feedfast.tf.new_rows import NewRows, check_new_rows, new_row_values
from feedfast.tf.optimizers import RowOptimizer
from feedfast.tf.pooled_lookup import Pooling, pooled_lookup, row_offsets
from feedfast.tf.row_update import assign_rows

# Up to here a float of the dtype tells all whole numbers apart.
_EXACT_BELOW = {tf.bfloat16: 2**8, tf.float16: 2**11, tf.float32: 2**24, tf.float64: 2**53}


@keras.saving.register_keras_serializable(package="feedfast")
class PooledEmbedding(keras.layers.Layer):  # type: ignore[misc]
    """One embedding table; a call turns bags of row ids into one vector per bag.

    Row 0 is the out-of-vocabulary row by convention; a row id outside the table is an error with
    its position. All calls of one layer share its table, whose gradient is sparse: any Keras
    optimizer takes it, those that only touch the rows of the batch are faster.

    The ids of a call are a RaggedTensor of rank 2, a SparseTensor of rank 2, a pair
    `(values [nnz], row_splits [batch + 1])`, or a dense tensor: [batch], one id per bag, or
    [batch, n], n ids per bag.

    Args:
        num_rows: Rows of the table, the OOV row included.
        dim: Columns of the table.
        pooling: "sum", "mean" or "sqrtn"; see `feedfast.pooled_lookup`.
        embeddings_initializer: Keras initializer of the table [num_rows, dim].
        table_dtype: Of the table: "float32", "float16" or "bfloat16"; default the layer's variable
            dtype. The pooled sums are float32 in any case.
        fused_optimizer: None: the table has a gradient for the model's optimizer. One of
            `fft.optimizers`: the table is updated inside the backward pass, without a gradient in
            memory, and the model's optimizer does not see it. Every backward pass through the
            layer is then a step, whatever is done with its gradients. The table stays as it is
            where `layer.trainable` is false.
        capacity: Rows to reserve for `grow`, which doubles the table when it has no more; default
            `num_rows`.
        new_rows: What `grow` and `reset_rows` put into rows: "zeros"; "mean", the mean of the rows
            in use; "hash", uniform in +-0.05 as a function of the row alone.
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        ValueError: An argument is out of its range or unknown. In a call: `fused_optimizer` with
            more than one replica, or in a compiled model with gradient accumulation, clipping by
            global norm or loss scaling; ids of a floating dtype that cannot name every row.
    """

    def __init__(
        self,
        num_rows: int,
        dim: int,
        *,
        pooling: Pooling = "sum",
        embeddings_initializer: Any = "uniform",
        table_dtype: str | None = None,
        fused_optimizer: Any = None,
        capacity: int | None = None,
        new_rows: NewRows = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if num_rows < 1 or dim < 1:
            raise ValueError(f"num_rows and dim must be at least 1; got {num_rows} and {dim}")
        if pooling not in ("sum", "mean", "sqrtn"):
            raise ValueError(f"pooling must be one of 'sum', 'mean', 'sqrtn'; got {pooling!r}")
        if table_dtype not in (None, "float32", "float16", "bfloat16"):
            raise ValueError(
                "table_dtype must be one of 'float32', 'float16', 'bfloat16' or None; got "
                f"{table_dtype!r}"
            )
        if capacity is not None and capacity < num_rows:
            raise ValueError(f"capacity must be at least num_rows = {num_rows}; got {capacity}")
        check_new_rows(new_rows)
        self._fused = None if fused_optimizer is None else FusedOptimizer(fused_optimizer)
        if self._fused is not None and self.compute_dtype == "float16":
            raise ValueError(
                "fused_optimizer cannot follow the loss scaling that float16 needs; use the dtype "
                "policy 'mixed_bfloat16', or leave fused_optimizer out"
            )
        self._num_rows = int(num_rows)
        self._capacity = self._num_rows if capacity is None else int(capacity)
        self.dim = int(dim)
        self.table_dtype = table_dtype
        self.new_rows: NewRows = new_rows
        self.pooling: Pooling = pooling
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.autocast = False  # float ids and weights would be rounded to the compute dtype
        self.supports_jit = False  # the op has no XLA kernel

    def build(self, ids_shape: Any = None, weights_shape: Any = None) -> None:
        """Creates the table; its shape does not depend on the input's."""
        del ids_shape, weights_shape
        shape = (self._capacity, self.dim)
        # autocast would hand the op a cast copy of the table instead of the variable.
        self.embeddings: GrowableVariable = add_growable(
            self,
            name="embeddings",
            shape=shape,
            initializer=self.embeddings_initializer,
            dtype=self.table_dtype or self.variable_dtype,
            trainable=self._fused is None,
            autocast=False,
        )
        # Of TensorFlow, so that checkpoints have it and `weights` does not.
        self._rows_in_use = tf.Variable(self._num_rows, dtype=tf.int64, trainable=False)
        if self._fused is not None:
            self._fused.build(self, shape)

    def call(self, ids: Any, weights: Any = None) -> tf.Tensor:
        """Pools the rows of `ids`.

        Args:
            ids: See the class.
            weights: None, or one weight per id: of the structure of `ids`, or flat [nnz].

        Returns:
            [batch, dim] in the layer's compute dtype.
        """
        values, offsets = values_and_offsets(ids)
        values = tf.convert_to_tensor(values)
        if values.dtype.is_floating:  # Keras makes inputs floats unless told otherwise
            if self.capacity > _EXACT_BELOW[values.dtype]:
                raise ValueError(
                    f"layer {self.name!r}: ids of {values.dtype.name} cannot tell rows above "
                    f"{_EXACT_BELOW[values.dtype]} apart, and the table has {self.capacity}; give "
                    "integer ids, as keras.Input(..., dtype='int64') does"
                )
            values = tf.cast(values, tf.int64)
        if weights is not None:
            weights = flat_weights(weights)
        pooled = pooled_lookup(
            self.embeddings, values, offsets, weights, pooling=self.pooling, name=self.name
        )
        # While Keras infers shapes there is no variable yet.
        exists = isinstance(self.embeddings.value, tf.Variable)
        if self._fused is not None and self.trainable and exists:
            pooled = self._fused.attach(
                pooled,
                self.embeddings,
                values,
                offsets,
                weights,
                pooling=self.pooling,
                model=self._get_call_context().entry_layer,
            )
        return tf.cast(pooled, self.compute_dtype)

    @property
    def learning_rate(self) -> Any:
        """Learning rate of the fused optimizer, a variable; None where it is a schedule."""
        if self._fused is None:
            raise AttributeError(f"layer {self.name!r} has no fused_optimizer")
        return self._fused.learning_rate

    @property
    def num_rows(self) -> int:
        """Rows in use, the OOV row included."""
        if not self.built:
            return self._num_rows
        with tf.init_scope():
            return int(self._rows_in_use.numpy())

    @property
    def capacity(self) -> int:
        """Rows of the table, the reserve included."""
        return int(self.embeddings.shape[0]) if self.built else self._capacity

    def grow(self, num_rows: int, *, optimizer: Any = None) -> None:
        """Takes more rows into use; they start as `new_rows` says.

        Where the reserve is too small, the table doubles until it holds them, and the states of its
        optimizer with it. Every doubling copies the table, which is in memory twice meanwhile.
        Call it between steps, in a callback of `fit` for instance; functions that were traced
        before, the steps of `fit` among them, go on with the larger table.

        Args:
            num_rows: New number of rows, at least as many as before.
            optimizer: As in `reset_rows`.

        Raises:
            ValueError: Fewer rows than before; or the layer has no table yet.
            TypeError: `optimizer` is not one of `fft.optimizers`.
            RuntimeError: The table must double inside a `tf.function` or in several replicas.
        """
        if not self.built:
            raise ValueError(f"layer {self.name!r} has no table yet; build it before it grows")
        if optimizer is not None and not isinstance(optimizer, RowOptimizer):
            raise TypeError(
                f"layer {self.name!r}: states grow with the table only in fft.optimizers; got "
                f"{type(optimizer).__name__}"
            )
        before, capacity = self.num_rows, self.capacity
        if num_rows < before:
            raise ValueError(
                f"layer {self.name!r}: num_rows can only grow, it is {before}; got {num_rows}"
            )
        while capacity < num_rows:
            capacity *= 2
        # The table last: after a failure the next call finds how far this one came.
        if optimizer is not None:
            optimizer.grow_states(self.embeddings, capacity)
        self._grow_to(capacity)
        self.reset_rows(tf.range(before, num_rows, dtype=tf.int64), optimizer=optimizer)
        self._rows_in_use.assign(num_rows)

    def _grow_to(self, capacity: int) -> None:
        if self._fused is not None:
            self._fused.grow_states(capacity)
        self.embeddings.grow_to(capacity)

    def reset_rows(self, rows: Any, *, optimizer: Any = None) -> None:
        """Gives rows the values of new ones, and their optimizer states too: for evicted keys.

        Args:
            rows: [n] integer rows, all different.
            optimizer: The one of `fft.optimizers` that trains the table; None where the layer has a
                fused optimizer or the table has not been trained.
        """
        rows = tf.cast(rows, tf.int64)
        values = new_row_values(self.new_rows, self.embeddings.value, rows, num_rows=self.num_rows)
        assign_rows(self.embeddings, rows, values)
        if self._fused is not None:
            self._fused.reset_rows(rows)
        if optimizer is not None:
            optimizer.reset_rows(self.embeddings, rows)

    def save_own_variables(self, store: Any) -> None:
        """The variables and the number of rows in use, for files of Keras."""
        super().save_own_variables(store)
        store["num_rows"] = np.int64(self.num_rows)

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` stored; a table that was larger then makes this grow."""
        names = list(store.keys())
        stored = {name: store[name] for name in names if name != "num_rows"}
        if self.built:
            sizes = [len(value) for value in stored.values() if np.ndim(value)]
            self._grow_to(max(sizes, default=0))
        super().load_own_variables(stored)
        self._rows_in_use.assign(int(np.asarray(store["num_rows"])))

    def get_config(self) -> dict[str, Any]:
        """Everything `from_config` needs."""
        return {
            **super().get_config(),
            "num_rows": self.num_rows,
            "dim": self.dim,
            "pooling": self.pooling,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            "table_dtype": self.table_dtype,
            "fused_optimizer": None if self._fused is None else self._fused.get_config(),
            "capacity": self.capacity,
            "new_rows": self.new_rows,
        }


def values_and_offsets(ids: Any) -> tuple[Any, Any]:
    """Values [nnz] and offsets [batch + 1] of ids in any of the forms that the layers take."""
    if isinstance(ids, tf.RaggedTensor):
        return ids.flat_values, ids.row_splits
    if isinstance(ids, tf.SparseTensor):
        return ids.values, row_offsets(ids.indices, ids.dense_shape[0])
    if isinstance(ids, tuple | list):
        values, offsets = ids
        return values, offsets
    ids = tf.convert_to_tensor(ids)
    if ids.shape.rank not in (1, 2):
        raise ValueError(f"dense ids must have shape [batch] or [batch, n]; got {ids.shape}")
    batch = tf.shape(ids, tf.int64)[0]
    length = tf.shape(ids, tf.int64)[1] if ids.shape.rank == 2 else 1
    return tf.reshape(ids, [-1]), tf.range(batch + 1) * length


def flat_weights(weights: Any) -> Any:
    """Weights [nnz] in any of the forms that ids have."""
    if isinstance(weights, tf.RaggedTensor):
        return weights.flat_values
    if isinstance(weights, tf.SparseTensor):
        return weights.values
    return tf.reshape(weights, [-1])
