"""Parameters of a ranker against the memory that serving it takes, before it is trained."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from feedfast import _core
from feedfast.config import RankerConfig
from feedfast.ranker_artifact import VOCABULARY
from feedfast.ranker_description import RankerDescription
from feedfast.ranker_precision import LAYER_PRECISIONS, LayerPrecision
from feedfast.store import Layout, OpenedModel
from feedfast.store.layouts import row_layout
from feedfast.store.writer import TABLE_ALIGN, TENSOR_ALIGN, rows_per_block

_ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}

# The hash function of the default preset and the fingerprints; docs/formats/vocabulary.md.
_HASH_BITS_PER_KEY = 1.87
_FINGERPRINT_BITS = 16
_VOCABULARY_HEADER_BYTES = 256
# docs/formats/forest.md.
_FOREST_HEADER_BYTES = 48
_SPLIT_BYTES = 20
# Of a safetensors header, about.
_HEADER_BYTES_PER_TENSOR = 96


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerShape:
    """One matrix product of a tower with its gate."""

    inputs: int
    outputs: int
    gate: str = "none"
    gate_rank: int | None = None
    precision: LayerPrecision = "fp32"
    has_bias: bool = True

    @property
    def gate_inputs(self) -> int:
        """Rows of the gate's matrix; 0 without a gate."""
        return {"none": 0, "hidden": self.outputs, "input": self.inputs}[self.gate]

    @property
    def weights(self) -> int:
        """Elements of all matrices."""
        gate = self.gate_inputs * self.outputs
        if self.gate_rank is not None and self.gate != "none":
            gate = self.gate_rank * (self.gate_inputs + self.outputs)
        return self.inputs * self.outputs + gate

    @property
    def biases(self) -> int:
        """Elements of the biases."""
        return self.outputs * (self.has_bias + (self.gate != "none"))

    @property
    def num_bytes(self) -> int:
        """Stored bytes: matrices in their precision, biases and scales as float32."""
        scales = self.outputs * (1 if self.gate == "none" else 2)
        if self.gate_rank is not None and self.gate != "none":
            scales += self.gate_rank
        floats = self.biases + (scales if self.precision == "int8" else 0)
        return self.weights * _ELEMENT_BYTES[self.precision] + 4 * floats


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryShape:
    """The sizes that decide a ranker's memory.

    Attributes:
        members, hashtags: Keys of the vocabularies.
        member_dim, hashtag_dim, leaf_dim: Columns of the tables.
        trees, leaves: Of the forest.
        features: Shared and dense float features.
        layers: Of all towers, heads included; those of the cross network too.
        objectives: Heads.
        effect_items: Items with random effects.
        layouts: Of member, hashtag and leaf table.
        key_bits: Stored bits per key beside the hash function, by vocabulary: fingerprints and,
            where rows are stored, those.
    """

    members: int
    hashtags: int
    member_dim: int
    hashtag_dim: int
    leaf_dim: int
    trees: int
    leaves: int
    features: int
    layers: tuple[LayerShape, ...]
    objectives: int
    effect_items: int = 0
    layouts: tuple[Layout, Layout, Layout] = ("float32", "float32", "float32")
    key_bits: tuple[int, int, int] = (_FINGERPRINT_BITS,) * 3


@dataclass(frozen=True, kw_only=True, slots=True)
class SectionPlan:
    """One section of the store and what a process that serves it needs.

    Attributes:
        name: Of the section.
        parameters: Trained numbers in it.
        bytes: In the store.
        mapped: Of them, mapped and shared between all processes of a machine once they are read.
        private: Copied into each process: packed layers and the forest.
    """

    name: str
    parameters: int
    bytes: int
    mapped: int
    private: int

    @property
    def resident(self) -> int:
        """Of one process that has read all of it."""
        return self.mapped + self.private


def plan_memory(shape: MemoryShape) -> tuple[SectionPlan, ...]:
    """The sections of a ranker of this shape, in the order of the manifest's documentation."""
    tables = []
    rows = (shape.members + 1, shape.hashtags + 1, shape.leaves)
    dims = (shape.member_dim, shape.hashtag_dim, shape.leaf_dim)
    names = ("member_table", "hashtag_table", "leaf_table")
    for name, num_rows, dim, layout in zip(names, rows, dims, shape.layouts, strict=True):
        size = _table_bytes(num_rows, row_layout(layout).row_bytes(dim))
        tables.append(_mapped(name, num_rows * dim, size))
    keys = (shape.members, shape.hashtags)
    vocabularies = [
        _mapped(name, 0, _vocabulary_bytes(count, bits))
        for name, count, bits in zip(
            ("member_vocabulary", "hashtag_vocabulary"), keys, shape.key_bits[:2], strict=True
        )
    ]
    splits = shape.leaves - shape.trees
    forest = _FOREST_HEADER_BYTES + 8 * (shape.trees + 1) + _SPLIT_BYTES * splits
    layers = sum(layer.num_bytes for layer in shape.layers)
    tower_tensors = sum(2 if layer.gate == "none" else 4 for layer in shape.layers)
    sections = [
        *tables,
        *vocabularies,
        SectionPlan(
            name="forest", parameters=2 * splits, bytes=forest, mapped=forest, private=forest
        ),
        _mapped("normalizer", 2 * shape.features, _tensor_bytes(8 * shape.features, 2)),
        SectionPlan(
            name="towers",
            parameters=sum(layer.weights + layer.biases for layer in shape.layers),
            bytes=_tensor_bytes(layers, tower_tensors),
            mapped=_tensor_bytes(layers, tower_tensors),
            private=layers,  # packed for the kernels
        ),
    ]
    if shape.effect_items:
        effects = (shape.effect_items + 1) * shape.objectives
        sections += [
            _mapped("random_effects", effects, _tensor_bytes(4 * effects, 1)),
            _mapped(
                "random_effects_vocabulary",
                0,
                _vocabulary_bytes(shape.effect_items, shape.key_bits[2]),
            ),
        ]
    return tuple(sections)


def shape_of_config(
    config: RankerConfig,
    *,
    members: int,
    hashtags: int,
    features: int,
    passive: int,
    active: int,
    effect_items: int = 0,
    layouts: tuple[Layout, Layout, Layout] = ("float32", "float32", "float32"),
    precision: LayerPrecision = "fp32",
) -> MemoryShape:
    """The shape of a ranker of this config at a scale.

    Args:
        config: Dims, forest and towers. Trees are taken to be full, which real ones rarely are.
        members, hashtags: Keys.
        features: Shared and dense features together.
        passive, active: Heads of the two towers.
        effect_items: Items with random effects.
        layouts: Of the tables.
        precision: Of the layers: fp32, bf16 or int8.

    Raises:
        ValueError: A count is negative, or the precision unknown.
    """
    counts = (members, hashtags, features, passive, active, effect_items)
    if min(counts) < 0 or passive + active == 0:
        raise ValueError(
            "counts must not be negative, and there must be a head; got "
            f"members {members}, hashtags {hashtags}, features {features}, heads {passive} and "
            f"{active}, items {effect_items}"
        )
    if precision not in LAYER_PRECISIONS:
        raise ValueError(
            f"precision must be one of {', '.join(LAYER_PRECISIONS)}; got {precision!r}"
        )
    width = 4 * config.member.dim + 2 * config.hashtag.dim + config.forest.leaf_dim + features
    layers: list[LayerShape] = []
    if config.cross is not None:
        for _ in range(config.cross.layers):
            layers += _cross_layer(width, config.cross.rank, precision)
    for tower, heads in ((config.passive, passive), (config.active, active)):
        if heads == 0:
            continue
        inputs = width
        for units in tower.units:
            layers.append(
                LayerShape(
                    inputs=inputs,
                    outputs=units,
                    gate=tower.gate,
                    gate_rank=tower.gate_rank,
                    precision=precision,
                )
            )
            inputs = units
        layers.append(LayerShape(inputs=inputs, outputs=heads, precision=precision))
    return MemoryShape(
        members=members,
        hashtags=hashtags,
        member_dim=config.member.dim,
        hashtag_dim=config.hashtag.dim,
        leaf_dim=config.forest.leaf_dim,
        trees=config.forest.num_trees,
        leaves=config.forest.num_trees * 2**config.forest.max_depth,
        features=features,
        layers=tuple(layers),
        objectives=passive + active,
        effect_items=effect_items,
        layouts=layouts,
    )


def shape_of_model(opened: OpenedModel, description: RankerDescription) -> MemoryShape:
    """The shape of a published ranker, from its manifest and the headers of its sections."""
    tensors = opened.tensors("towers")
    layers: list[LayerShape] = []
    for name, weight in tensors.items():
        prefix, _, key = name.rpartition("/")
        if key == "weight":
            down = tensors.get(f"{prefix}/gate_down")
            layers.append(
                LayerShape(
                    inputs=weight.shape[0],
                    outputs=weight.shape[1],
                    gate=_gate(description, prefix),
                    gate_rank=None if down is None else down.shape[1],
                    precision=_precision(weight),
                )
            )
        elif key == "down":  # of a cross layer
            layers.append(
                LayerShape(
                    inputs=weight.shape[0],
                    outputs=weight.shape[1],
                    has_bias=False,
                    precision=_precision(weight),
                )
            )
    counts = {}
    bits = {}
    for name in ("member", "hashtag", "random_effects"):
        section = f"{name}_vocabulary"
        if section in opened.manifest.sections:
            described = _described(opened, section)
            counts[name] = described["num_keys"]
            bits[name] = described["fingerprint_bits"] + described["row_bits"]
    tables = [opened.section(f"{name}_table", "table") for name in ("member", "hashtag", "leaf")]
    header = opened.image("forest", layout="forest")[32:48].view("<i4")
    return MemoryShape(
        members=counts["member"],
        hashtags=counts["hashtag"],
        member_dim=tables[0].shape[1],
        hashtag_dim=tables[1].shape[1],
        leaf_dim=tables[2].shape[1],
        trees=int(header[1]),
        leaves=int(header[3]),
        features=len(description.shared_names) + len(description.dense_names),
        layers=tuple(layers),
        objectives=len(description.utility.objectives),
        effect_items=counts.get("random_effects", 0),
        layouts=tuple(row_layout(table.layout).name for table in tables),  # type: ignore[arg-type]
        key_bits=(bits["member"], bits["hashtag"], bits.get("random_effects", _FINGERPRINT_BITS)),
    )


def _gate(description: RankerDescription, prefix: str) -> str:
    tower, _, index = prefix.partition("/")
    layers = description.towers.get(tower, ())
    return layers[int(index)].gate if index.isdigit() and int(index) < len(layers) else "none"


def _precision(weight: NDArray[Any]) -> LayerPrecision:
    return {4: "fp32", 2: "bf16", 1: "int8"}[weight.itemsize]  # type: ignore[return-value]


def _described(opened: OpenedModel, section: str) -> _core.VocabularyDescription:
    path = os.fsencode(opened.image_path(section, layout=VOCABULARY))
    return _core.Vocabulary.open(path, "header").describe()


def _cross_layer(width: int, rank: int | None, precision: LayerPrecision) -> list[LayerShape]:
    if rank is None:
        return [LayerShape(inputs=width, outputs=width, precision=precision)]
    return [
        LayerShape(inputs=rank, outputs=width, precision=precision),
        LayerShape(inputs=width, outputs=rank, has_bias=False, precision=precision),
    ]


def _mapped(name: str, parameters: int, num_bytes: int) -> SectionPlan:
    return SectionPlan(
        name=name, parameters=parameters, bytes=num_bytes, mapped=num_bytes, private=0
    )


def _table_bytes(rows: int, row_bytes: int) -> int:
    blocks = max(1, -(-rows // rows_per_block(row_bytes)))
    return rows * row_bytes + blocks * TABLE_ALIGN


def _tensor_bytes(data: int, tensors: int) -> int:
    return data + -(-(8 + _HEADER_BYTES_PER_TENSOR * tensors) // TENSOR_ALIGN) * TENSOR_ALIGN


def _vocabulary_bytes(keys: int, key_bits: int) -> int:
    return _VOCABULARY_HEADER_BYTES + math.ceil(keys * (_HASH_BITS_PER_KEY + key_bits) / 8)
