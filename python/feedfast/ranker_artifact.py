"""A trained ranker as the model store keeps it: what an exporter hands over, what a scorer reads.

The sections and the description are specified in docs/formats/model_store.md.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from feedfast import _core
from feedfast.calibration import Calibrator, calibrators_from_tensors, calibrators_to_tensors
from feedfast.config import HistoryConfig
from feedfast.cross_network import CrossNetwork, CrossWeights
from feedfast.gated_mlp import GatedLayer, GatedMLP
from feedfast.input_layout import InputLayout
from feedfast.objectives import Utility
from feedfast.quantize import RangeMethod
from feedfast.random_effects import RandomEffects
from feedfast.ranker_balance import balance_inputs
from feedfast.ranker_description import (
    CrossDescription,
    LayerDescription,
    RankerDescription,
    tower_objectives,
)
from feedfast.ranker_precision import (
    LAYER_PRECISIONS,
    LAYOUT_OF,
    TABLE_PRECISIONS,
    TABLES,
    Precision,
    TablePrecision,
    range_method_of,
    resolve_precisions,
)
from feedfast.store import ModelStore, OpenedModel, Verify, encode_table
from feedfast.store.layouts import row_layout
from feedfast.trees import LeafEncoder
from feedfast.vocab import Vocabulary

_T = TypeVar("_T")
_Layer = TypeVar("_Layer", GatedLayer, CrossWeights)

VOCABULARIES = ("member_vocabulary", "hashtag_vocabulary")
# Layouts of images.
VOCABULARY = "vocabulary"
FOREST = "forest"
# Name of the cross network's layers among the sections that have a precision, and of its tensors.
CROSS = "cross"


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class RankerArtifact:
    """Everything of a trained ranker that scoring needs, as numpy arrays and native objects.

    Attributes:
        member_vocabulary: Ids of viewers, actors, root actors and history members.
        hashtag_vocabulary: Hashtags of candidates and histories.
        member_table: [member_vocabulary.num_rows, D] float32; row 0 is OOV.
        hashtag_table: [hashtag_vocabulary.num_rows, H] float32; row 0 is OOV.
        leaf_table: [forest.num_leaves, L] float32; no OOV row.
        forest: Reads the raw features `[shared | dense]`, NaN where missing.
        shared_names: Names of the S features of the request, in order.
        dense_names: Names of the F features of a candidate, in order.
        history: Longest histories of the training rows.
        mean: [S + F] float32, of shared then dense.
        inv_std: [S + F] float32; normalised = clip((x - mean) * inv_std, -8, 8), NaN to 0.
        towers: Layers of the towers `passive` and `active`, input first. The last one is the linear
            head: [units, objectives of the tower], in the order in which `utility` lists them. The
            passive tower has the objectives of group `passive`, the active one all others; a tower
            without objectives is left out.
        utility: Objectives, their weights and the default trade-off.
        calibrators: By objective; without one the probability is sigmoid(logit).
        random_effects: Added to the logits by item id; None: none.
        cross: Layers that the input goes through before the towers, all of one rank and precision.
    """

    member_vocabulary: Vocabulary
    hashtag_vocabulary: Vocabulary
    member_table: NDArray[np.float32]
    hashtag_table: NDArray[np.float32]
    leaf_table: NDArray[np.float32]
    forest: LeafEncoder
    shared_names: tuple[str, ...]
    dense_names: tuple[str, ...]
    history: HistoryConfig
    mean: NDArray[np.float32]
    inv_std: NDArray[np.float32]
    towers: Mapping[str, Sequence[GatedLayer]]
    utility: Utility
    calibrators: Mapping[str, Calibrator] = field(default_factory=dict)
    random_effects: RandomEffects | None = None
    cross: Sequence[CrossWeights] = ()

    @property
    def layout(self) -> InputLayout:
        """The towers' input."""
        return InputLayout(
            member_dim=self.member_table.shape[1],
            hashtag_dim=self.hashtag_table.shape[1],
            leaf_dim=self.leaf_table.shape[1],
            num_shared=len(self.shared_names),
            num_dense=len(self.dense_names),
        )

    @property
    def description(self) -> RankerDescription:
        """What the manifest says about the ranker."""
        return RankerDescription(
            shared_names=self.shared_names,
            dense_names=self.dense_names,
            history=self.history,
            layout=self.layout,
            utility=self.utility,
            towers={
                tower: tuple(
                    LayerDescription(x.gate or "none", x.activation, x.precision or "fp32")
                    for x in layers
                )
                for tower, layers in self.towers.items()
            },
            random_effects_version=(
                0 if self.random_effects is None else self.random_effects.version
            ),
            cross=(
                CrossDescription(
                    len(self.cross), self.cross[0].rank, self.cross[0].precision or "fp32"
                )
                if self.cross
                else None
            ),
        )

    def __post_init__(self) -> None:
        expected_rows = {
            "member_table": self.member_vocabulary.num_rows,
            "hashtag_table": self.hashtag_vocabulary.num_rows,
            "leaf_table": self.forest.num_leaves,
        }
        for name, rows in expected_rows.items():
            table: NDArray[Any] = getattr(self, name)
            if table.dtype != np.float32 or table.ndim != 2 or table.shape[0] != rows:
                raise ValueError(
                    f"{name} must be float32 [{rows}, dim]; got {table.dtype} {table.shape}"
                )
        features = (*self.shared_names, *self.dense_names)
        if self.forest.num_features != len(features):
            raise ValueError(
                f"forest reads {self.forest.num_features} features; "
                f"there are {len(features)} shared and dense ones"
            )
        for name in ("mean", "inv_std"):
            values: NDArray[Any] = getattr(self, name)
            if values.dtype != np.float32 or values.shape != (len(features),):
                raise ValueError(
                    f"{name} must be float32 [{len(features)}]; got {values.dtype} {values.shape}"
                )
            wrong = np.flatnonzero(~np.isfinite(values))
            if wrong.size:
                raise ValueError(
                    f"{name}[{wrong[0]}] = {values[wrong[0]]}, of feature "
                    f"{features[wrong[0]]!r}; must be finite"
                )
        self._check_cross()
        self._check_towers()
        names = {objective.name for objective in self.utility.objectives}
        for name in self.calibrators:
            if name not in names:
                raise ValueError(f"calibrators: {name!r} is not an objective")
        if self.random_effects is not None and self.random_effects.coefficients.shape != (
            self.random_effects.vocabulary.num_rows,
            len(names),
        ):
            raise ValueError(
                f"random effects: coefficients must be "
                f"[{self.random_effects.vocabulary.num_rows}, {len(names)}]; "
                f"got {self.random_effects.coefficients.shape}"
            )

    def _check_cross(self) -> None:
        for index, layer in enumerate(self.cross):
            if layer.size != self.layout.num_inputs:
                raise ValueError(
                    f"cross: layer {index} has {layer.size} inputs; "
                    f"expected {self.layout.num_inputs}"
                )
            for name in ("rank", "precision"):
                found, first = getattr(layer, name), getattr(self.cross[0], name)
                if found != first:
                    raise ValueError(
                        f"cross: layer {index} has {name} {found!r}; layer 0 has {first!r}"
                    )

    def _check_towers(self) -> None:
        needed = tower_objectives(self.utility)
        if set(self.towers) != set(needed):
            raise ValueError(f"towers must be {sorted(needed)}; got {sorted(self.towers)}")
        for name, layers in self.towers.items():
            width = self.layout.num_inputs
            for index, layer in enumerate(layers):
                if layer.weight.shape[0] != width:
                    raise ValueError(
                        f"tower {name!r}: layer {index} has {layer.weight.shape[0]} inputs; "
                        f"expected {width}"
                    )
                width = layer.weight.shape[1]
            if width != len(needed[name]):
                raise ValueError(
                    f"tower {name!r}: {width} outputs; its objectives are {needed[name]}"
                )


def publish_ranker(
    store: ModelStore,
    name: str,
    artifact: RankerArtifact,
    *,
    precision: str | Mapping[str, str] = "fp32",
    range_method: RangeMethod | None = None,
) -> str:
    """Writes a ranker as the next version of the model `name`.

    Blobs that the store has already, such as a table that did not change, are not written again.
    The version becomes visible at once and last; see `feedfast.store.ModelWriter.publish`.

    Args:
        store: Where to.
        name: Model name: letters, digits, dots, dashes and underscores.
        artifact: The ranker.
        precision: Of all tables, or by section: see `ranker_precision.resolve_precisions`.
        range_method: Of int8 and int4 tables, see `QuantizedTable.quantize`; None: `clip` for int4
            and `minmax` for int8.

    Returns:
        The version, such as `000001`.

    Raises:
        ValueError: Unknown section or precision; or a table that the precision cannot hold (not
            finite, or beyond 65504 in fp16, int8 and int4).
    """
    return RankerEncoder(artifact, range_method=range_method).publish(store, name, precision)


class RankerEncoder:
    """The sections of a ranker in any precision, each encoded once and kept.

    A model with int8 layers that read the inputs is balanced first, see
    `ranker_balance.balance_inputs`.
    """

    def __init__(
        self,
        artifact: RankerArtifact,
        *,
        range_method: RangeMethod | None = None,
        threads: int = 1,
    ) -> None:
        """See `publish_ranker`; `threads` quantize."""
        self._artifact = artifact
        self._range_method = range_method
        self._threads = threads
        self._images: dict[str, bytes] = {}
        self._tables: dict[tuple[str, TablePrecision, bool], NDArray[Any]] = {}

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers: `cross` for all of a cross network, and `<tower>/<index>`."""
        return (
            *((CROSS,) if self._artifact.cross else ()),
            *(
                f"{tower}/{index}"
                for tower, layers in self._artifact.towers.items()
                for index in range(len(layers))
            ),
        )

    @property
    def sections(self) -> dict[str, tuple[Precision, ...]]:
        """What each table and layer may be stored in, fp32 last."""
        return {
            **dict.fromkeys(TABLES, TABLE_PRECISIONS[::-1]),
            **dict.fromkeys(self.layers, LAYER_PRECISIONS[::-1]),
        }

    def num_bytes(self, section: str, precision: Precision) -> int:
        """Bytes of a table's rows or of the arrays of layers in a precision."""
        if section in TABLES:
            table: NDArray[Any] = getattr(self._artifact, section)
            rows, dim = table.shape
            return int(rows) * row_layout(LAYOUT_OF[precision]).row_bytes(dim)
        if section == CROSS:
            return sum(_convert(x, section, precision).nbytes for x in self._artifact.cross)
        tower, _, index = section.rpartition("/")
        return _convert(self._artifact.towers[tower][int(index)], section, precision).nbytes

    def publish(self, store: ModelStore, name: str, precision: str | Mapping[str, str]) -> str:
        """As `publish_ranker`."""
        precisions = resolve_precisions(precision, self.layers)
        source = self._artifact
        readers = {f"{tower}/0": layers[0].precision for tower, layers in source.towers.items()}
        if source.cross:
            readers[CROSS] = source.cross[0].precision
        if any(precisions[layer] == "int8" and given == "fp32" for layer, given in readers.items()):
            source = self._balanced
        artifact = dataclasses.replace(
            source,
            towers={
                tower: [
                    _convert(layer, f"{tower}/{index}", precisions[f"{tower}/{index}"])
                    for index, layer in enumerate(layers)
                ]
                for tower, layers in source.towers.items()
            },
            cross=[
                _convert(layer, f"{CROSS}/{index}", precisions[CROSS])
                for index, layer in enumerate(source.cross)
            ],
        )
        writer = store.writer(name)
        for section in VOCABULARIES:
            writer.add_image(section, self._vocabulary_image(section), layout=VOCABULARY)
        for section in TABLES:
            table: NDArray[Any] = getattr(artifact, section)
            writer.add_table(
                section,
                self._table(artifact, section, precisions[section]),
                layout=LAYOUT_OF[precisions[section]],
                dim=table.shape[1],
            )
        writer.add_image("forest", artifact.forest.to_bytes(), layout=FOREST)
        writer.add_tensors("normalizer", {"mean": artifact.mean, "inv_std": artifact.inv_std})
        stacks: dict[str, Sequence[GatedLayer | CrossWeights]] = {
            CROSS: artifact.cross,
            **artifact.towers,
        }
        writer.add_tensors(
            "towers",
            {
                f"{stack}/{index}/{key}": tensor
                for stack, layers in stacks.items()
                for index, layer in enumerate(layers)
                for key, tensor in layer.arrays().items()
            },
        )
        writer.add_tensors("calibrators", calibrators_to_tensors(artifact.calibrators))
        effects = artifact.random_effects
        if effects is None:
            writer.add_tensors("random_effects", {})
        else:
            writer.add_tensors("random_effects", {"coefficients": effects.coefficients})
            image = _vocabulary_image(effects.vocabulary)
            writer.add_image("random_effects_vocabulary", image, layout=VOCABULARY)
        return writer.publish(artifact.description.to_json())

    @functools.cached_property
    def _balanced(self) -> RankerArtifact:
        return balance_inputs(self._artifact)

    def _table(
        self, artifact: RankerArtifact, section: str, precision: TablePrecision
    ) -> NDArray[Any]:
        table: NDArray[np.float32] = getattr(artifact, section)
        key = (section, precision, table is getattr(self._artifact, section))
        if key not in self._tables:
            try:
                self._tables[key] = encode_table(
                    table,
                    LAYOUT_OF[precision],
                    method=self._range_method or range_method_of(precision),
                    threads=self._threads,
                )
            except ValueError as error:
                raise ValueError(f"{section} in {precision}: {error}") from None
        return self._tables[key]

    def _vocabulary_image(self, section: str) -> bytes:
        if section not in self._images:
            self._images[section] = _vocabulary_image(getattr(self._artifact, section))
        return self._images[section]


def _convert(layer: _Layer, name: str, precision: Precision) -> _Layer:
    """The layer in a precision; fp32 leaves one that came in another as it is."""
    try:
        return layer if precision == "fp32" else layer.to(precision)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"{name} in {precision}: {error}") from None


def open_ranker(
    opened: OpenedModel, *, verify: Verify = "header"
) -> tuple[RankerDescription, _core.Scorer]:
    """The native scorer of an opened ranker; it reads the mapped sections.

    Args:
        opened: A version that `publish_ranker` wrote.
        verify: Of the vocabulary images; see `Vocabulary.open`.

    Raises:
        ValueError: The model is not a ranker, or its sections do not fit together.
    """
    try:
        description = RankerDescription.from_json(opened.description)
        return description, _open_native(opened, description, verify)
    except ValueError as error:
        raise ValueError(f"{opened.where}: {error}") from None


def _open_native(
    opened: OpenedModel, description: RankerDescription, verify: Verify
) -> _core.Scorer:
    def vocabulary(section: str) -> _core.Vocabulary:
        path = opened.image_path(section, layout=VOCABULARY)
        # The digests of a background verification cover what the checksums of an image cover.
        return _core.Vocabulary.open(os.fsencode(path), "full" if verify == "full" else "header")

    def forest(section: str) -> _core.LeafEncoder:
        return _core.LeafEncoder.from_image(opened.image(section, layout=FOREST).tobytes())

    def read(section: str, reader: Callable[[str], _T]) -> _T:
        try:
            return reader(section)
        except ValueError as error:
            raise ValueError(f"section {section!r}: {error}") from None

    objectives = [objective.name for objective in description.utility.objectives]
    outputs = tower_objectives(description.utility)
    weights = opened.tensors("towers")
    calibrators = calibrators_from_tensors(opened.tensors("calibrators"), objectives)
    effects = opened.tensors("random_effects").get("coefficients")
    normalizer = opened.tensors("normalizer")
    for name, dim in (
        ("member_table", description.layout.member_dim),
        ("hashtag_table", description.layout.hashtag_dim),
        ("leaf_table", description.layout.leaf_dim),
    ):
        if opened.section(name, "table").shape[1] != dim:
            raise ValueError(
                f"section {name!r} has {opened.section(name, 'table').shape[1]} columns; "
                f"the description says {dim}"
            )
    cross: CrossNetwork | None = None
    if description.cross is not None:
        size = description.layout.num_inputs
        cross = CrossNetwork(_read_cross(weights, description.cross, size))
    return _core.Scorer(
        member_vocabulary=read("member_vocabulary", vocabulary),
        hashtag_vocabulary=read("hashtag_vocabulary", vocabulary),
        forest=read("forest", forest),
        member_table=opened.table_view("member_table"),
        hashtag_table=opened.table_view("hashtag_table"),
        leaf_table=opened.table_view("leaf_table"),
        num_shared=len(description.shared_names),
        mean=_floats(normalizer, "mean", 1),
        inv_std=_floats(normalizer, "inv_std", 1),
        towers=[
            (
                GatedMLP(
                    _read_layers(weights, tower, layers),
                    # Behind a cross network candidates share nothing.
                    num_shared=0 if cross else description.layout.num_viewer_inputs,
                ).native,
                [objectives.index(objective) for objective in outputs[tower]],
            )
            for tower, layers in description.towers.items()
        ],
        groups=[objective.group for objective in description.utility.objectives],
        calibrators=[
            None if found is None else (found.x, found.y)
            for found in map(calibrators.get, objectives)
        ],
        random_effects=(
            None
            if effects is None
            else (
                read("random_effects_vocabulary", vocabulary),
                _floats(opened.tensors("random_effects"), "coefficients", 2),
            )
        ),
        cross=None if cross is None else cross.native,
    )


def _read_layers(
    tensors: Mapping[str, NDArray[Any]], tower: str, layers: Sequence[LayerDescription]
) -> list[GatedLayer]:
    return [
        _read_layer(
            tensors,
            f"{tower}/{index}",
            functools.partial(
                GatedLayer.from_arrays,
                gate=None if layer.gate == "none" else layer.gate,  # type: ignore[arg-type]
                activation=layer.activation,  # type: ignore[arg-type]
                precision=layer.precision,  # type: ignore[arg-type]
            ),
        )
        for index, layer in enumerate(layers)
    ]


def _read_cross(
    tensors: Mapping[str, NDArray[Any]], cross: CrossDescription, size: int
) -> list[CrossWeights]:
    read = []
    for index in range(cross.num_layers):
        name = f"{CROSS}/{index}"
        layer = _read_layer(
            tensors,
            name,
            functools.partial(CrossWeights.from_arrays, precision=cross.precision),  # type: ignore[arg-type]
        )
        if (layer.size, layer.rank) != (size, cross.rank):
            raise ValueError(
                f"section 'towers': {name} has {layer.size} inputs and rank {layer.rank}; "
                f"the description says {size} and {cross.rank}"
            )
        read.append(layer)
    return read


def _read_layer(
    tensors: Mapping[str, NDArray[Any]],
    layer: str,
    from_arrays: Callable[[Mapping[str, NDArray[Any]]], _Layer],
) -> _Layer:
    """The layer whose tensors are named `<layer>/<array>`."""
    prefix = f"{layer}/"
    arrays = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    try:
        return from_arrays(arrays)
    except KeyError as error:
        raise ValueError(f"section 'towers': {prefix}{error.args[0]} is missing") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"section 'towers': {layer}: {error}") from None


def _floats(tensors: Mapping[str, NDArray[Any]], name: str, rank: int) -> NDArray[np.float32]:
    tensor = tensors.get(name)
    if tensor is None or tensor.dtype != np.float32 or tensor.ndim != rank:
        found = "nothing" if tensor is None else f"{tensor.dtype} of shape {tensor.shape}"
        raise ValueError(f"tensor {name!r} must be float32 with {rank} dimensions; got {found}")
    return tensor


def _vocabulary_image(vocabulary: Vocabulary) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary"
        vocabulary.save(path)
        return path.read_bytes()
