"""A gradient tape that exchanges gradients once per window of micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from feedfast.comm import Engine, connect
from feedfast.tf._handles import handle_of
from feedfast.tf.distributed.sparse_exchange import TableChoice, Wire
from feedfast.tf.distributed.variables import local_variable_ids, resource_of
from feedfast.tf.distributed.window import (
    Gradient,
    GradientSlot,
    GradientWindow,
    WindowParticipant,
)

__all__ = ["AccumulatingGradientTape", "TrainingStep"]

# What gradients may be, and how they come to the window: numpy has no bfloat16.
_ON_THE_WAY = {tf.float32: tf.float32, tf.float16: tf.float16, tf.bfloat16: tf.uint16}


class AccumulatingGradientTape:
    """Gradients of the mean loss over `k` micro-batches of all processes, with one exchange.

    With n processes, B examples in a micro-batch and a loss that is a mean over them, what comes
    out is the gradient of the mean loss over all k n B examples. Dense gradients cross the wire
    once per window, in one array; so do the touched rows of all tables, each once, however many
    micro-batches touched it. Gradients of 16 bits come and go in their dtype and are summed in
    float32, among the others. Tables of which a window touches most rows go with the dense
    gradients (`table_choices`); the result is the same.

        tape = fft.distributed.AccumulatingGradientTape(k=5)
        for x, y in batches:
            with tape:
                loss = loss_function(y, model(x))
            gradients = tape.gradient(loss, model.trainable_variables)
            if gradients is not None:  # after the fifth batch
                optimizer.apply(gradients, model.trainable_variables)

    `minimize` is the last three lines in one call, and works inside `tf.function` too, which is the
    fastest; `training_step` compiles all but the exchange, so that errors stay those of Python.

    All processes make the same calls in the same order; see `equal_steps` for what to do when
    their data does not last equally long. One thread at a time.

    Args:
        k: Micro-batches of a window.
        engine: Between the processes; default `feedfast.comm.connect()`.
        participants: Layers that exchange gradients of their own, such as `ShardedEmbedding`;
            they are updated before the gradients of the window are handed out.
        local_layers: Layers or variables that each process trains for itself. Their gradients
            are divided by the sum of weights of all processes too, as in Horovod's partial tape:
            what each process computes is its part of the mean loss.
        clip_norm: Largest norm of all gradients together, those of participants and of local
            layers included; larger ones are scaled down. None: as they are.
        wire: "bf16" halves the bytes: values are rounded on the wire, summed in float32, and
            rounded once more. Weights then cross in a second, tiny exchange.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: `local_layers` holds something else.
    """

    def __init__(
        self,
        k: int = 5,
        *,
        engine: Engine | None = None,
        participants: Sequence[WindowParticipant] = (),
        local_layers: Sequence[Any] = (),
        clip_norm: float | None = None,
        wire: Wire = "exact",
    ) -> None:
        if k < 1:
            raise ValueError(f"k must be at least 1; got {k}")
        if clip_norm is not None and not clip_norm > 0.0:
            raise ValueError(f"clip_norm must be above 0; got {clip_norm}")
        if wire not in ("exact", "bf16"):
            raise ValueError(f"wire must be one of 'exact', 'bf16'; got {wire!r}")
        self.k = k
        self.engine = connect() if engine is None else engine
        self._participants = tuple(participants)
        self._local_layers = tuple(local_layers)
        self._clip_norm = clip_norm
        self._wire: Wire = wire
        self._window: GradientWindow | None = None
        self._variables: list[Any] = []
        self._recording: tf.GradientTape | None = None

    @property
    def num_added(self) -> int:
        """Micro-batches in the window so far."""
        return 0 if self._window is None else self._window.num_added

    @property
    def table_choices(self) -> tuple[TableChoice, ...]:
        """How the gradient of each table travelled in the last window, and why."""
        return () if self._window is None else self._window.choices

    def __enter__(self) -> AccumulatingGradientTape:
        """Begins to record a micro-batch."""
        self._recording = tf.GradientTape()
        self._recording.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        """Ends the record."""
        assert self._recording is not None
        self._recording.__exit__(*exception)

    def gradient(
        self, target: Any, sources: Sequence[Any], *, weight: float = 1.0
    ) -> list[Any] | None:
        """Adds the micro-batch that was recorded to the window.

        Args:
            target: The loss, a mean over the examples of the micro-batch.
            sources: Keras or TensorFlow variables, the same in every call.
            weight: Of the micro-batch in the mean over the window: 1, or 0 for one that only
                keeps this process in step with the others.

        Returns:
            None, or after the `k`-th micro-batch the gradients of the window in the order of
            `sources`, `tf.IndexedSlices` of distinct rows for tables that were looked up.

        Raises:
            RuntimeError: Inside a `tf.function`; nothing was recorded; a process is gone.
            ValueError: `target` does not depend on a variable; the trigger of a participant is not
                among the sources; other sources than before; other variables than the other
                processes.
            FloatingPointError: The norm of the gradients is not finite, with `clip_norm`.
        """
        if not tf.executing_eagerly():
            raise RuntimeError(
                "gradient() is None between windows, which a tf.function cannot decide: use "
                "minimize() there, or training_step()"
            )
        self._add(weight, *_flatten(self._differentiate(target, sources, weight)))
        assert self._window is not None
        if not self._window.is_full:
            return None
        return self._assemble([tf.constant(array) for array in self._exchange()])

    def minimize(
        self, target: Any, sources: Sequence[Any], optimizer: Any, *, weight: Any = 1.0
    ) -> Any:
        """`gradient`, and one step of the optimizer when the window is full.

        Inside a `tf.function` the sum and the exchange are one `tf.numpy_function` each.

        Args:
            target, sources, weight: As for `gradient`; `weight` may be a tensor here.
            optimizer: A Keras optimizer, or a callable that gets the gradients of `sources`.

        Returns:
            Whether weights changed: bool, or a tensor of it inside a `tf.function`.

        Raises:
            RuntimeError, ValueError, FloatingPointError: As `gradient`. Inside a `tf.function` the
                errors of an exchange come as those of TensorFlow, with the same text.
        """
        if tf.executing_eagerly():
            gradients = self.gradient(target, sources, weight=float(weight))
            if gradients is not None:
                _apply(optimizer, gradients, sources)
            return gradients is not None
        flat = _flatten(self._differentiate(target, sources, weight))
        with tf.init_scope():
            _build(optimizer, sources)
        weight = tf.cast(weight, tf.float32)
        full = tf.numpy_function(self._add, [weight, *flat], tf.bool)

        def update() -> tf.Tensor:
            specs = self._specs()
            arrays = tf.numpy_function(self._exchange, [], [spec.dtype for spec in specs])
            for array, spec in zip(arrays, specs, strict=True):
                array.set_shape(spec.shape)
            _apply(optimizer, self._assemble(arrays), sources)
            return tf.constant(True)

        return tf.cond(tf.ensure_shape(full, []), update, lambda: tf.constant(False))

    def training_step(
        self,
        loss_function: Callable[..., Any],
        sources: Sequence[Any],
        optimizer: Any,
        *,
        input_signature: Sequence[Any] | None = None,
    ) -> TrainingStep:
        """A compiled step: `step(*batch, weight=1.0)` is the loss of one micro-batch.

        Forward and backward pass are one `tf.function`, the update another; gradients are added up
        and exchanged between them, so that errors of an exchange are not wrapped by TensorFlow.

        Args:
            loss_function: From the arguments of the step to the mean loss of the micro-batch.
            sources: Variables, all built.
            optimizer: As for `minimize`.
            input_signature: `tf.TensorSpec`s of the batch. Without them, graphs are traced for the
                shapes of the first batches before one for all shapes is, and these may round
                otherwise; with them, steps do not depend on where a run begins.
        """
        return TrainingStep(self, loss_function, sources, optimizer, input_signature)

    def reset_choices(self) -> None:
        """Lets the next window's tables travel as rows, like those of the first window.

        How a table travels follows from the window before, and decides the order of additions.
        Called by all processes wherever a checkpoint is written, it makes a run that continues
        from the checkpoint the same to the bit.
        """
        if self._window is not None:
            self._window.reset_choices()

    def discard(self) -> None:
        """Forgets the micro-batches of the window, those of the participants too."""
        if self._window is not None:
            self._window.discard()
        for participant in self._participants:
            participant.discard_window()

    def _differentiate(self, target: Any, sources: Sequence[Any], weight: Any) -> list[Any]:
        """The gradients of `weight * target` for the window, which is made or checked by them."""
        recording, self._recording = self._recording, None
        if recording is None:
            raise RuntimeError("nothing was recorded: compute the loss inside `with tape:`")
        resources = [resource_of(source) for source in sources]
        target = tf.convert_to_tensor(target)
        if self._participants:
            weight = self._announce(weight)
        seed = tf.fill(tf.shape(target), tf.cast(weight, target.dtype))
        gradients = recording.gradient(target, resources, output_gradients=seed)
        names = [getattr(source, "path", source.name) for source in sources]
        missing = [name for name, g in zip(names, gradients, strict=True) if g is None]
        if missing:
            raise ValueError(
                f"the loss does not depend on {', '.join(missing)}: leave them out, or compute "
                "the loss inside `with tape:`"
            )
        for_window = [_for_window(g, name) for g, name in zip(gradients, names, strict=True)]
        self._prepare(resources, names, gradients)
        return for_window

    def _announce(self, weight: Any) -> Any:
        """The weight itself, when the participants know it: gradients that need it come later."""

        def tell(value: Any) -> Any:
            for participant in self._participants:
                participant.begin_backward(float(value))
            return value

        if tf.executing_eagerly():
            return tell(weight)
        told = tf.numpy_function(tell, [tf.cast(weight, tf.float32)], tf.float32)
        return tf.ensure_shape(told, [])

    def _prepare(self, resources: list[Any], names: list[str], gradients: list[Any]) -> None:
        local = local_variable_ids(self._local_layers)
        slots = [
            GradientSlot(
                name=name,
                shape=tuple(resource.shape),
                sparse=isinstance(gradient, tf.IndexedSlices),
                local=id(resource) in local,
                dtype="float32" if isinstance(gradient, tf.IndexedSlices) else gradient.dtype.name,
            )
            for resource, name, gradient in zip(resources, names, gradients, strict=True)
        ]
        if self._window is None:
            self._check_triggers(resources)
            self._variables = resources
            self._window = GradientWindow(
                slots,
                engine=self.engine,
                k=self.k,
                participants=self._participants,
                clip_norm=self._clip_norm,
                wire=self._wire,
            )
            return
        before = self._window.slots
        if [id(r) for r in resources] != [id(v) for v in self._variables]:
            raise ValueError(
                f"the first micro-batch had the variables {[slot.name for slot in before]}; "
                f"this one has {names}"
            )
        for slot, first in zip(slots, before, strict=True):
            if slot != first:
                raise ValueError(
                    f"the gradient of {slot.name} was {_kind(first)} in the first micro-batch; "
                    f"now it is {_kind(slot)}"
                )

    def _check_triggers(self, resources: list[Any]) -> None:
        """Without its trigger a `ShardedEmbedding` would collect nothing, in silence."""
        given = {id(resource) for resource in resources}
        for index, participant in enumerate(self._participants):
            trigger = getattr(participant, "trigger", None)
            if trigger is not None and id(resource_of(trigger)) not in given:
                raise ValueError(
                    f"participants[{index}] would not be trained: its `trigger` must be among the "
                    "variables"
                )

    def _add(self, weight: Any, *flat: Any) -> Any:
        """One micro-batch from the arrays of `_flatten`; whether the window is full."""
        assert self._window is not None
        arrays = iter(flat)
        gradients: list[Gradient] = []
        for slot in self._window.slots:
            array = _as_numpy(next(arrays))
            gradients.append((array, _as_numpy(next(arrays))) if slot.sparse else array)
        self._window.add(gradients, weight=float(weight))
        return np.bool_(self._window.is_full)

    def _exchange(self) -> list[NDArray[Any]]:
        """Ends the window; its arrays in the order of `_specs`."""
        assert self._window is not None
        flat: list[NDArray[Any]] = []
        for gradient in self._window.exchange():
            flat.extend(gradient if isinstance(gradient, tuple) else [gradient])
        return flat

    def _specs(self) -> list[tf.TensorSpec]:
        assert self._window is not None
        specs = []
        for slot in self._window.slots:
            if slot.sparse:
                specs.append(tf.TensorSpec([None], tf.int64))
                specs.append(tf.TensorSpec([None, slot.dim], tf.float32))
            else:
                specs.append(tf.TensorSpec(slot.shape, _ON_THE_WAY[tf.as_dtype(slot.dtype)]))
        return specs

    def _assemble(self, flat: Sequence[tf.Tensor]) -> list[Any]:
        """Gradients in the dtypes of the variables from tensors in the order of `_specs`."""
        assert self._window is not None
        tensors = iter(flat)
        gradients = []
        for slot, variable in zip(self._window.slots, self._variables, strict=True):
            if slot.sparse:
                rows, values = next(tensors), tf.cast(next(tensors), variable.dtype)
                values = tf.reshape(values, [-1, *slot.shape[1:]])
                # Of the handle: `tf.shape` reads the table first, which may copy all of it.
                shape = tf.raw_ops.VariableShape(input=handle_of(variable), out_type=tf.int64)
                gradients.append(tf.IndexedSlices(values, rows, shape))
            else:
                gradient = next(tensors)
                if slot.dtype == "bfloat16":
                    gradient = tf.bitcast(gradient, tf.bfloat16)
                gradients.append(tf.cast(gradient, variable.dtype))
        return gradients


class TrainingStep:
    """See `AccumulatingGradientTape.training_step`."""

    def __init__(
        self,
        tape: AccumulatingGradientTape,
        loss_function: Callable[..., Any],
        sources: Sequence[Any],
        optimizer: Any,
        input_signature: Sequence[Any] | None,
    ) -> None:
        self._tape, self._loss_function = tape, loss_function
        self._sources, self._optimizer = list(sources), optimizer
        _build(optimizer, self._sources)
        if input_signature is None:
            self._forward = tf.function(self._compute, reduce_retracing=True)
        else:
            signature = [tf.TensorSpec([], tf.float32), *input_signature]
            self._forward = tf.function(self._compute, input_signature=signature)
        self._update: Callable[..., None] | None = None

    def __call__(self, *batch: Any, weight: float = 1.0) -> tf.Tensor:
        """The loss of one micro-batch; weights change after each `k`-th.

        Args:
            *batch: Arguments of the loss function.
            weight: As for `AccumulatingGradientTape.gradient`.

        Raises:
            RuntimeError, ValueError, FloatingPointError: As there.
        """
        loss, flat = self._forward(tf.constant(weight, tf.float32), *batch)
        if self._tape._add(weight, *flat):
            if self._update is None:
                self._update = tf.function(self._apply, input_signature=self._tape._specs())
            self._update(*[tf.constant(array) for array in self._tape._exchange()])
        return loss

    def _compute(self, weight: tf.Tensor, *batch: Any) -> tuple[tf.Tensor, list[tf.Tensor]]:
        tape = self._tape
        with tape:
            loss = self._loss_function(*batch)
        return loss, _flatten(tape._differentiate(loss, self._sources, weight))

    def _apply(self, *flat: tf.Tensor) -> None:
        _apply(self._optimizer, self._tape._assemble(flat), self._sources)


def _kind(slot: GradientSlot) -> str:
    form = "rows" if slot.sparse else "dense"
    return f"{form} {list(slot.shape)}, {'local' if slot.local else 'shared'}, {slot.dtype}"


def _for_window(gradient: Any, name: str) -> Any:
    """What the window takes: dense gradients as they are, rows in float32."""
    values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
    if values.dtype not in _ON_THE_WAY:
        raise TypeError(
            f"the gradient of {name} is {values.dtype.name}; float32, float16 and bfloat16 can be "
            "exchanged"
        )
    if not isinstance(gradient, tf.IndexedSlices):
        return tf.bitcast(values, tf.uint16) if values.dtype == tf.bfloat16 else values
    dim = int(np.prod(values.shape[1:], dtype=np.int64))
    return tf.IndexedSlices(
        tf.reshape(tf.cast(values, tf.float32), [-1, dim]),
        tf.cast(gradient.indices, tf.int64),
        gradient.dense_shape,
    )


def _flatten(gradients: Sequence[Any]) -> list[tf.Tensor]:
    """Dense gradients, and rows and values of sparse ones, in order."""
    flat = []
    for gradient in gradients:
        if isinstance(gradient, tf.IndexedSlices):
            flat += [gradient.indices, gradient.values]
        else:
            flat.append(gradient)
    return flat


def _as_numpy(array: Any) -> NDArray[Any]:
    """The memory of an eager tensor, or the array itself."""
    return np.asarray(memoryview(array)) if isinstance(array, tf.Tensor) else np.asarray(array)


def _build(optimizer: Any, sources: Sequence[Any]) -> None:
    if not getattr(optimizer, "built", True):
        optimizer.build(list(sources))


def _apply(optimizer: Any, gradients: list[Any], sources: Sequence[Any]) -> None:
    if callable(optimizer):
        optimizer(gradients)
    else:
        optimizer.apply(gradients, list(sources))
