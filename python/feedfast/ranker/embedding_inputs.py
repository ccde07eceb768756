"""Float features that are one vector from elsewhere: which columns, and how export folds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from feedfast.config import EmbeddingInputConfig
from feedfast.ranker.normalizer import Normalizer

FloatArray = NDArray[np.float32]

EPSILON = 1e-5
"""Added to the variance of a batch-normalised column, whose standardised variance is about 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingInput:
    """The columns of one embedding input.

    Attributes:
        name: Its prefix; the model's tensors of it are `embedding/<name>/...`.
        part: `shared` or `dense`.
        kind: `batch_norm` or `projection`.
        columns: Ascending, of the part.
        dim: Columns that the towers see in training.
    """

    name: str
    part: Literal["shared", "dense"]
    kind: Literal["batch_norm", "projection"]
    columns: tuple[int, ...]
    dim: int

    def tensor(self, name: str) -> str:
        """Full name of a tensor of this input: `mean`, `variance` or `projection`."""
        return f"embedding/{self.name}/{name}"


def find_embedding_inputs(
    configs: Sequence[EmbeddingInputConfig], *, shared: Sequence[str], dense: Sequence[str]
) -> tuple[EmbeddingInput, ...]:
    """The columns of each configured input.

    Raises:
        ValueError: No feature, or features of both parts, start with the prefix.
    """
    found = []
    for config in configs:
        parts: dict[Literal["shared", "dense"], tuple[int, ...]] = {}
        for part, names in (("shared", shared), ("dense", dense)):
            columns = tuple(i for i, name in enumerate(names) if name.startswith(config.prefix))
            if columns:
                parts[part] = columns  # type: ignore[index]
        if len(parts) != 1:
            raise ValueError(
                f"embedding input {config.prefix!r}: "
                + ("both shared and dense features start" if parts else "no feature starts")
                + " with it"
            )
        ((part, columns),) = parts.items()
        dim = config.dim if config.kind == "projection" else len(columns)
        found.append(
            EmbeddingInput(
                name=config.prefix, part=part, kind=config.kind, columns=columns, dim=dim
            )
        )
    return tuple(found)


def kept_columns(inputs: Sequence[EmbeddingInput], part: str, width: int) -> list[int]:
    """Columns of a part that no projection replaces, ascending."""
    projected = {c for e in inputs if e.part == part and e.kind == "projection" for c in e.columns}
    return [column for column in range(width) if column not in projected]


def trained_width(inputs: Sequence[EmbeddingInput], part: str, width: int) -> int:
    """Columns of a part as the towers see it in training: kept ones, then the projections."""
    return len(kept_columns(inputs, part, width)) + sum(
        e.dim for e in inputs if e.part == part and e.kind == "projection"
    )


def folded_normalizer(
    inputs: Sequence[EmbeddingInput],
    tensors: Mapping[str, FloatArray],
    normalizer: Normalizer,
    num_shared: int,
) -> Normalizer:
    """The scaling that equals the normalizer followed by the batch norms.

    With z = (x - m) s, normalised (z - mean) / sqrt(variance + e) is (x - m') s' with
    m' = m + mean / s and s' = s / sqrt(variance + e).
    """
    mean, inv_std = normalizer.mean.astype(np.float64), normalizer.inv_std.astype(np.float64)
    for group in inputs:
        if group.kind != "batch_norm":
            continue
        columns = np.array(group.columns) + (num_shared if group.part == "dense" else 0)
        s = inv_std[columns]
        moved = tensors[group.tensor("mean")] / np.where(s > 0.0, s, 1.0)
        mean[columns] += np.where(s > 0.0, moved, 0.0)
        inv_std[columns] = s / np.sqrt(tensors[group.tensor("variance")] + np.float64(EPSILON))
    return Normalizer(mean.astype(np.float32), inv_std.astype(np.float32))


def folded_rows(
    inputs: Sequence[EmbeddingInput],
    tensors: Mapping[str, FloatArray],
    weight: FloatArray,
    *,
    first_shared: int,
    num_shared: int,
    num_dense: int,
) -> FloatArray:
    """A matrix on the trained input as one on the served input: projections are multiplied in.

    Args:
        inputs: The embedding inputs.
        tensors: Weights by name.
        weight: [trained inputs, out]; its last rows are the dense part.
        first_shared: Row at which the shared part starts.
        num_shared, num_dense: Columns of the parts as served.

    Returns:
        [served inputs, out] float32; products are summed in double precision.
    """
    if all(group.kind != "projection" for group in inputs):
        return weight
    trained_shared = trained_width(inputs, "shared", num_shared)
    trained_dense = trained_width(inputs, "dense", num_dense)
    dense_from = len(weight) - trained_dense

    def fold(part: str, width: int, rows: FloatArray) -> FloatArray:
        kept = kept_columns(inputs, part, width)
        out = np.zeros((width, rows.shape[1]), dtype=np.float64)
        out[kept] = rows[: len(kept)]
        at = len(kept)
        for group in inputs:
            if group.part == part and group.kind == "projection":
                projection = tensors[group.tensor("projection")].astype(np.float64)
                out[list(group.columns)] = projection @ rows[at : at + group.dim]
                at += group.dim
        return out.astype(np.float32)

    after_shared = first_shared + trained_shared
    return np.concatenate(
        [
            weight[:first_shared],
            fold("shared", num_shared, weight[first_shared:after_shared]),
            weight[after_shared:dense_from],
            fold("dense", num_dense, weight[dense_from:]),
        ]
    )
