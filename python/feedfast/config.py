"""Configuration of a ranker and of its training: frozen dataclasses that check themselves.

The default dims, decays and rates were chosen on validation rows (never on test rows) of MovieLens
100k and of the simulated feed; neighbouring values differ by little more than seeds do.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args


@dataclass(frozen=True, kw_only=True, slots=True)
class TableConfig:
    """One table of learned ID embeddings.

    Attributes:
        dim: Columns of the table.
        min_count: An id that no column shows in at least this many training rows has no row of its
            own: it is looked up as OOV, and so teaches row 0 what an unknown id means.
        id_dropout: Share of a batch's single ids (viewer, actor, root actor) that are looked up as
            OOV, drawn anew each time. Regularises rare ids, and trains row 0 for every column.
    """

    dim: int = 8
    min_count: int = 3
    id_dropout: float = 0.1

    def __post_init__(self) -> None:
        _at_least("table: dim", self.dim, 1)
        _at_least("table: min_count", self.min_count, 1)
        _in_range("table: id_dropout", self.id_dropout, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class TowerConfig:
    """The gated layers that the objectives of one group share, below their linear heads.

    Attributes:
        units: Width of each layer, the first nearest to the input; may be empty (heads only).
        gate: `hidden` multiplies a layer's output a by sigmoid(a Wg + bg); `input` multiplies it by
            sigmoid(x V + c); `none` is a plain layer.
        gate_rank: Rank of a factored gate matrix, which costs layer width over rank less; None for
            a full one.
        dropout: Share of the activations dropped in training, of the input and of every layer.
    """

    units: tuple[int, ...] = (64, 32)
    gate: Literal["hidden", "input", "none"] = "hidden"
    gate_rank: int | None = None
    dropout: float = 0.2

    def __post_init__(self) -> None:
        for index, units in enumerate(self.units):
            _at_least(f"tower: units[{index}]", units, 1)
        if self.gate not in ("hidden", "input", "none"):
            raise ValueError(f"tower: gate must be hidden, input or none; got {self.gate!r}")
        if self.gate_rank is not None:
            _at_least("tower: gate_rank", self.gate_rank, 1)
            if self.gate == "none":
                raise ValueError("tower: gate_rank needs a gate")
        _in_range("tower: dropout", self.dropout, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossConfig:
    """A cross network (DCN V2) over the whole input, before both towers: products of features.

    Attributes:
        layers: Its layers; n of them make products of up to n + 1 inputs.
        rank: Rank of each layer's matrix; None for a full one, whose size is the square of the
            number of inputs.
    """

    layers: int = 2
    rank: int | None = None

    def __post_init__(self) -> None:
        _at_least("cross: layers", self.layers, 1)
        if self.rank is not None:
            _at_least("cross: rank", self.rank, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingInputConfig:
    """Float features that are one vector from elsewhere, such as a text or image embedding.

    Attributes:
        prefix: The shared or dense features of the log whose names start with it.
        kind: `batch_norm`: each column is scaled by its mean and deviation over the batches of
            training, instead of those over all training rows. `projection`: the columns, scaled
            like other features, are projected to `dim` learned ones. Export folds both away: the
            first into the scaling, the second into the first layers.
        dim: Columns of the projection; unused by `batch_norm`.
    """

    prefix: str
    kind: Literal["batch_norm", "projection"] = "batch_norm"
    dim: int = 16

    def __post_init__(self) -> None:
        if not self.prefix:
            raise ValueError("embedding input: prefix is empty")
        if self.kind not in ("batch_norm", "projection"):
            raise ValueError(
                f"embedding input {self.prefix!r}: kind must be batch_norm or projection; "
                f"got {self.kind!r}"
            )
        _at_least(f"embedding input {self.prefix!r}: dim", self.dim, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class ForestConfig:
    """The boosted forest of the superset objective whose leaves are embedded.

    Attributes:
        num_trees: Trees, each one categorical feature; >= 1.
        max_depth: Deepest leaf.
        learning_rate: Shrinkage of each tree.
        leaf_dim: Columns of the leaf table.
    """

    num_trees: int = 60
    max_depth: int = 4
    learning_rate: float = 0.1
    leaf_dim: int = 8

    def __post_init__(self) -> None:
        _at_least("forest: num_trees", self.num_trees, 1)
        _at_least("forest: max_depth", self.max_depth, 1)
        _at_least("forest: leaf_dim", self.leaf_dim, 1)
        _positive("forest: learning_rate", self.learning_rate)


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryConfig:
    """How much of what a viewer engaged with before an impression is pooled."""

    max_members: int = 20
    max_hashtags: int = 20

    def __post_init__(self) -> None:
        _at_least("history: max_members", self.max_members, 0)
        _at_least("history: max_hashtags", self.max_hashtags, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig:
    """Which rows teach, which choose the number of epochs, and which are kept for the report.

    Attributes:
        kind: `member_time`: the last part of each viewer's rows by time; `random`: uniform rows.
        test_fraction: Share of the rows kept for the report, in (0, 1).
        validation_fraction: Share of the remaining rows that choose the number of epochs.
    """

    kind: Literal["member_time", "random"] = "member_time"
    test_fraction: float = 0.2
    validation_fraction: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in ("member_time", "random"):
            raise ValueError(f"split: kind must be member_time or random; got {self.kind!r}")
        for name in ("test_fraction", "validation_fraction"):
            _in_range(f"split: {name}", getattr(self, name), 0.0, 1.0, include_low=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightingConfig:
    """Loss weights that undo the logging policy's choices; see `feedfast.weighting`.

    Attributes:
        kind: `none`: every row counts once. `rate_ratio`: click rate of random over model-ranked
            sessions per position and response. `ips`: one over the logged propensity.
        smoothing: Pseudo-rows per position of the rate ratios.
        clip: Largest rate ratio.
        floor: Smallest propensity.
    """

    kind: Literal["none", "rate_ratio", "ips"] = "none"
    smoothing: float = 20.0
    clip: float = 10.0
    floor: float = 0.01

    def __post_init__(self) -> None:
        if self.kind not in ("none", "rate_ratio", "ips"):
            raise ValueError(f"weighting: kind must be none, rate_ratio or ips; got {self.kind!r}")
        _finite("weighting: smoothing", self.smoothing, at_least=0.0)
        _finite("weighting: clip", self.clip, at_least=1.0)
        _in_range("weighting: floor", self.floor, 0.0, 1.0, include_low=False, include_high=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """Adam and its schedule: `fft.optimizers.SparseAdam` for the tables, Keras' for the layers.

    The learning rate rises linearly from 0 to `learning_rate` over `warmup_steps`, then falls along
    a half cosine to a tenth of it at `max_epochs`.

    Attributes:
        batch_size: Rows per step, of all processes together.
        accumulate: Micro-batches in which each process works off its share of a step, and after
            which gradients are exchanged once. Less memory for activations; the result is the same
            but for batch norms, which see micro-batches.
        max_epochs: Most passes over the training rows.
        patience: Epochs without a lower validation loss after which training stops.
        learning_rate: Peak.
        warmup_steps: Steps of the linear rise.
        table_weight_decay: Decoupled decay of the ID and leaf tables, of all their rows: each step
            takes away this times the learning rate of every weight, 32 steps at once. Decay of the
            rows of the batch alone costs 0.7% of normalised entropy on the simulated feed.
        weight_decay: The same for the weights of the layers, step by step; biases are not decayed.
        checkpoint_every_steps: Steps between checkpoints.
    """

    batch_size: int = 512
    accumulate: int = 1
    max_epochs: int = 5
    patience: int = 2
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    table_weight_decay: float = 3.0
    weight_decay: float = 0.3
    checkpoint_every_steps: int = 500

    def __post_init__(self) -> None:
        for name in (
            "batch_size",
            "accumulate",
            "max_epochs",
            "patience",
            "checkpoint_every_steps",
        ):
            _at_least(f"training: {name}", getattr(self, name), 1)
        _at_least("training: warmup_steps", self.warmup_steps, 0)
        _positive("training: learning_rate", self.learning_rate)
        _finite("training: table_weight_decay", self.table_weight_decay, at_least=0.0)
        _finite("training: weight_decay", self.weight_decay, at_least=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class DistributedConfig:
    """How processes that train together share the model; one process alone holds all of it.

    Two runs that differ here train the same weights, up to the order of additions, and one may go
    on where the other stopped.

    Attributes:
        sharding: Where the tables live. `none`: whole in every process. `row`: the ID tables by
            rows over all processes, the leaf table in each. `auto`: `none` up to 256 MiB of tables
            and their optimizer states; above, tables up to 4 MiB in each process and the others
            divided as the planner finds a step fastest within half of the machine's memory. Or a
            file of `feedfast plan shards` (`.json`) with the tables `member_table`, `hashtag_table`
            and `leaf_table`, each of at least as many rows as the data need.
    """

    sharding: str = "auto"

    def __post_init__(self) -> None:
        if self.sharding not in ("none", "auto", "row") and not self.sharding.endswith(".json"):
            raise ValueError(
                "distributed: sharding must be none, auto, row or a plan file that ends in .json; "
                f"got {self.sharding!r}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class RankerConfig:
    """Everything that decides a trained ranker beside its data.

    Attributes:
        member: Table of viewers, actors, root actors and the members of histories.
        hashtag: Table of hashtags and the hashtags of histories.
        passive: Tower of the passive objectives.
        active: Tower of the active and other objectives.
        cross: Cross network before both towers; None: none.
        embedding_inputs: Features that are vectors from elsewhere.
        distributed: What processes share; it does not decide what is learned.
        seed: Start of every random choice: split, forest, initial weights, order of rows, dropout.
    """

    member: TableConfig = field(default_factory=TableConfig)
    hashtag: TableConfig = field(default_factory=lambda: TableConfig(id_dropout=0.0))
    forest: ForestConfig = field(default_factory=ForestConfig)
    history: HistoryConfig = field(default_factory=HistoryConfig)
    passive: TowerConfig = field(default_factory=TowerConfig)
    active: TowerConfig = field(default_factory=TowerConfig)
    cross: CrossConfig | None = None
    embedding_inputs: tuple[EmbeddingInputConfig, ...] = ()
    split: SplitConfig = field(default_factory=SplitConfig)
    weighting: WeightingConfig = field(default_factory=WeightingConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least("seed", self.seed, 0)
        for one, other in itertools.permutations(self.embedding_inputs, 2):
            if one.prefix.startswith(other.prefix):
                raise ValueError(
                    f"embedding inputs {other.prefix!r} and {one.prefix!r} share features"
                )
        if self.cross and any(e.kind == "projection" for e in self.embedding_inputs):
            raise ValueError(
                "cross: a projection of an embedding input cannot be folded through a cross "
                "network; use kind batch_norm"
            )

    def to_json(self) -> str:
        """Readable JSON with every field; `from_json` gives an equal config."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RankerConfig:
        """Reads `to_json`'s form; fields that are left out keep their default.

        Raises:
            ValueError: Not JSON, an unknown field, or a value of the wrong type or outside its
                range. The message names the field.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"config: not JSON: {error}") from None
        return _read(cls, document, "config")


_T = typing.TypeVar("_T")


def _read(kind: type[_T], value: object, where: str) -> _T:
    """A dataclass from a JSON object; the class's own checks run on the result."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: must be an object; got {value!r}")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise ValueError(f"{where}: unknown field {unknown[0]!r}; allowed: {', '.join(hints)}")
    arguments = {name: _value(hints[name], value[name], f"{where}.{name}") for name in value}
    try:
        return kind(**arguments)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _value(hint: Any, value: object, where: str) -> Any:
    if isinstance(hint, types.UnionType):  # X | None
        if value is None:
            return None
        hint = next(option for option in get_args(hint) if option is not types.NoneType)
    if dataclasses.is_dataclass(hint):
        return _read(typing.cast("type[Any]", hint), value, where)
    if isinstance(hint, types.GenericAlias):  # tuple[int, ...]
        if not isinstance(value, list):
            raise ValueError(f"{where}: must be a list; got {value!r}")
        element = get_args(hint)[0]
        return tuple(_value(element, item, f"{where}[{i}]") for i, item in enumerate(value))
    if hint is float and type(value) is int:
        return float(value)
    if typing.get_origin(hint) is Literal:
        hint = str
    if type(value) is not hint:
        raise ValueError(f"{where}: must be {hint.__name__}; got {value!r}")
    return value


def _at_least(what: str, value: int, limit: int) -> None:
    if value < limit:
        raise ValueError(f"{what} must be >= {limit}; got {value}")


def _positive(what: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0.0):
        raise ValueError(f"{what} must be finite and > 0; got {value}")


def _finite(what: str, value: float, *, at_least: float) -> None:
    if not (math.isfinite(value) and value >= at_least):
        raise ValueError(f"{what} must be finite and >= {at_least:g}; got {value}")


def _in_range(
    what: str,
    value: float,
    low: float,
    high: float,
    *,
    include_low: bool = True,
    include_high: bool = False,
) -> None:
    above = value >= low if include_low else value > low
    below = value <= high if include_high else value < high
    if not (above and below):
        interval = f"{'[' if include_low else '('}{low:g}, {high:g}{']' if include_high else ')'}"
        raise ValueError(f"{what} must be in {interval}; got {value}")
