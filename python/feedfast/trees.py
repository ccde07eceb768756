"""Boosted trees as an encoder: every leaf of an XGBoost forest is one row of a leaf table.

`LeafEncoder` turns dense features into one leaf row per tree without xgboost in the process;
`train_forest` trains the forest and is the only place of feedfast that imports xgboost.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from feedfast import _core
from feedfast.bags import as_float32
from feedfast.store import files

__all__ = ["LeafEncoder", "train_forest"]


@runtime_checkable
class Booster(Protocol):
    """What is used of an `xgboost.Booster`, so that typing needs no xgboost."""

    def save_raw(self, raw_format: str) -> bytes | bytearray:
        """The model in XGBoost's own format ("ubj" or "json")."""


@runtime_checkable
class Estimator(Protocol):
    """What is used of `xgboost.XGBClassifier` and its kin."""

    def get_booster(self) -> Booster:
        """The trained booster."""


class LeafEncoder:
    """A boosted forest as one contiguous leaf table: [batch, features] to int32 [batch, trees].

    Rows run from 0 to num_leaves - 1 over all trees; there is no OOV row. The row of tree t is
    `leaf_offsets[t]` plus the rank of the leaf's node id among the leaves of t, so rows are
    XGBoost's `pred_leaf` node ids, renumbered densely. Every tree model of XGBoost has them: random
    forests, dart, one or several outputs per tree, categorical splits. Safe to call from many
    threads; picklable.
    """

    def __init__(self, core: _core.LeafEncoder) -> None:
        self._core = core

    @classmethod
    def from_xgboost(
        cls,
        booster_or_path: Booster | Estimator | str | os.PathLike[str],
        *,
        iteration_range: tuple[int, int] | None = None,
    ) -> LeafEncoder:
        """Read a trained `xgboost.Booster` or estimator, or the .json or .ubj file it saved.

        Args:
            booster_or_path: The model. Categorical splits compare the numbers of categories, as
                XGBoost does for arrays; what a data frame calls them is not known here.
            iteration_range: Boosting rounds [begin, end) to encode, with the meaning of
                `Booster.predict`: (0, 0) is all of them. None does what XGBoost does: all rounds of
                a booster or file (`Booster.predict(pred_leaf=True)`), those up to the best
                iteration of an estimator that stopped early (`XGBModel.apply`).

        Raises:
            TypeError: It is none of these.
            ValueError: The model has no trees (gblinear), has not these rounds or is not a model;
                the message says which tree and node.
            FileNotFoundError: There is no such file.
        """
        begin, end = (0, 0) if iteration_range is None else iteration_range
        if isinstance(booster_or_path, str | os.PathLike):
            read = partial(_core.LeafEncoder.from_xgboost, begin=begin, end=end)
            return cls(_load(read, Path(booster_or_path)))
        booster = booster_or_path
        if isinstance(booster, Estimator):
            if iteration_range is None:
                end = getattr(booster, "best_iteration", -1) + 1
            booster = booster.get_booster()
        if not isinstance(booster, Booster):
            raise TypeError(
                "booster_or_path must be an xgboost.Booster, an estimator with get_booster() or a "
                f"path; got {type(booster).__name__}"
            )
        model = bytes(booster.save_raw("ubj"))
        return cls(_core.LeafEncoder.from_xgboost(model, begin=begin, end=end))

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> LeafEncoder:
        """Read an encoder that `save` wrote; the whole file is verified.

        Raises:
            ValueError: The file is truncated, altered or of an unknown version.
            FileNotFoundError: There is no such file.
        """
        return cls(_load(_core.LeafEncoder.from_image, Path(path)))

    @classmethod
    def from_bytes(cls, image: bytes) -> LeafEncoder:
        """The encoder whose `to_bytes` gave `image`; ValueError when the bytes were altered."""
        return cls(_core.LeafEncoder.from_image(image))

    def to_bytes(self) -> bytes:
        """The flat, versioned, checksummed image of docs/formats/forest.md."""
        return self._core.to_image()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the image durably to `path`, which holds either the old or the whole new file.

        Raises:
            FileNotFoundError: The folder of `path` does not exist.
            OSError: The file cannot be written; a file that was at `path` is unchanged.
        """
        files.replace_durably(Path(path), [self.to_bytes()])

    @property
    def num_features(self) -> int:
        """Columns of the input."""
        return self._core.num_features

    @property
    def num_trees(self) -> int:
        """Columns of the output."""
        return self._core.num_trees

    @property
    def num_leaves(self) -> int:
        """Rows of the leaf table: the leaves of all trees."""
        return self._core.num_leaves

    @property
    def leaf_offsets(self) -> NDArray[np.int64]:
        """[num_trees + 1]; the rows of tree t are leaf_offsets[t] to leaf_offsets[t + 1] - 1."""
        return self._core.leaf_offsets

    def __call__(self, x: ArrayLike, *, threads: int = 1) -> NDArray[np.int32]:
        """Leaf row of every tree for every row of features.

        Args:
            x: [batch, num_features], compared as float32 as XGBoost does; NaN is missing.
            threads: Threads that share the rows; the result is the same for any number.

        Returns:
            [batch, num_trees] int32, values in [0, num_leaves).

        Raises:
            TypeError: `x` does not hold numbers.
            ValueError: `x` has not two dimensions or not num_features columns.
        """
        return self._core.encode(as_float32("x", x), threads=threads)

    def ordinals(self, x: ArrayLike, *, threads: int = 1) -> NDArray[np.uint8]:
        """Leaf of every tree for every row of features, counted within its tree: a byte each.

        The leaf row of tree t is `leaf_offsets[t]` plus its ordinal. A quarter of the bytes of
        rows, for sending leaves from where features are to where the leaf table is.

        Args:
            x: [batch, num_features], as for a call.
            threads: Threads that share the rows.

        Returns:
            [batch, num_trees] uint8.

        Raises:
            TypeError: `x` does not hold numbers.
            ValueError: A tree has more than 256 leaves (the message names it), or `x` is as a call
                refuses it.
        """
        return self._core.ordinals(as_float32("x", x), threads=threads)

    def __reduce__(self) -> tuple[Callable[[bytes], LeafEncoder], tuple[bytes]]:
        return type(self).from_bytes, (self.to_bytes(),)

    def __repr__(self) -> str:
        return (
            f"LeafEncoder(num_features={self.num_features}, num_trees={self.num_trees}, "
            f"num_leaves={self.num_leaves})"
        )


def train_forest(
    x: ArrayLike,
    y: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    num_trees: int = 100,
    max_depth: int = 6,
    learning_rate: float = 0.1,
    seed: int = 0,
    threads: int = 1,
    evaluation: tuple[ArrayLike, ArrayLike] | None = None,
    patience: int | None = None,
    feature_names: list[str] | None = None,
) -> Any:
    """Train the forest of the superset objective: boosted trees on binary log loss.

    The histogram method with everything seeded: the same arguments (also the same `threads`) give
    the same trees.

    Args:
        x: [rows, features] float32; NaN is missing.
        y: [rows], each 0 or 1.
        weights: [rows] weights of the loss, finite and >= 0; None is 1 everywhere.
        num_trees: Boosting rounds, one tree each.
        max_depth: Splits on the longest path; at most 2 ** max_depth leaves per tree.
        learning_rate: Shrinkage of every tree.
        seed: Seed of XGBoost's generator.
        threads: Threads used for training.
        evaluation: (x, y) of held-out rows, whose log loss is watched; needed by `patience`.
        patience: Stop when the held-out loss has not improved for so many rounds; the booster then
            ends with the best round.
        feature_names: [features] names to keep in the model.

    Returns:
        The `xgboost.Booster`.

    Raises:
        ImportError: xgboost is not installed; the message says how to install it.
        TypeError: `x`, `y` or `weights` does not hold numbers.
        ValueError: Shapes disagree, there are no rows, a label is not 0 or 1, a weight is negative
            or not finite, a feature is infinite, or `patience` has no `evaluation`.
    """
    try:
        import xgboost
    except ModuleNotFoundError as error:
        raise ImportError(
            "feedfast.trees.train_forest needs xgboost; install it with: "
            "pip install 'feedfast[train]'"
        ) from error
    if patience is not None and evaluation is None:
        raise ValueError("patience needs evaluation rows to watch; got evaluation=None")
    if num_trees < 1:
        raise ValueError(f"num_trees must be >= 1; got {num_trees}")
    features, labels = _check_rows("", x, y)
    loss_weights = None if weights is None else _check_weights(weights, len(labels))
    train = xgboost.DMatrix(
        features, label=labels, weight=loss_weights, feature_names=feature_names, nthread=threads
    )
    watched = []
    if evaluation is not None:
        held_features, held_labels = _check_rows("evaluation ", *evaluation)
        held = xgboost.DMatrix(
            held_features, label=held_labels, feature_names=feature_names, nthread=threads
        )
        watched = [(held, "evaluation")]
    parameters = {
        "objective": "binary:logistic",
        "eval_metric": "logloss",
        "tree_method": "hist",
        "max_depth": max_depth,
        "learning_rate": learning_rate,
        "seed": seed,
        "nthread": threads,
    }
    booster = xgboost.train(
        parameters,
        train,
        num_boost_round=num_trees,
        evals=watched,
        early_stopping_rounds=patience,
        verbose_eval=False,
    )
    return booster if patience is None else booster[: booster.best_iteration + 1]


def _load(read: Callable[[bytes], _core.LeafEncoder], path: Path) -> _core.LeafEncoder:
    """Read the file at `path`; errors of its content name it."""
    try:
        return read(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _check_rows(
    which: str, x: ArrayLike, y: ArrayLike
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    features = as_float32(f"{which}x", x)
    labels = as_float32(f"{which}y", y)
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"{which}x must be [rows, features]; got shape {features.shape}")
    if labels.shape != (features.shape[0],):
        raise ValueError(
            f"{which}y must have shape ({features.shape[0]},) as x has rows; got {labels.shape}"
        )
    if labels.size == 0:
        raise ValueError(f"{which}x has no rows")
    wrong = np.flatnonzero((labels != 0) & (labels != 1))
    if wrong.size:
        raise ValueError(f"{which}y[{wrong[0]}] = {labels[wrong[0]]}; allowed: 0, 1")
    infinite = np.argwhere(np.isinf(features))
    if infinite.size:
        row, column = infinite[0]
        raise ValueError(f"{which}x[{row}, {column}] is infinite; use NaN for missing")
    return features, labels


def _check_weights(weights: ArrayLike, rows: int) -> NDArray[np.float32]:
    checked = as_float32("weights", weights)
    if checked.shape != (rows,):
        raise ValueError(f"weights must have shape ({rows},) as y; got {checked.shape}")
    wrong = np.flatnonzero(~(np.isfinite(checked) & (checked >= 0)))
    if wrong.size:
        raise ValueError(f"weights[{wrong[0]}] = {checked[wrong[0]]}; must be finite and >= 0")
    return checked
