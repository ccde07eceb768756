"""Treelite's reference predictor, the one of its two that gives leaves (TL2cgen gives scores)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import treelite

NAME = f"treelite {treelite.__version__} predict_leaf"


def load(path: Path) -> treelite.Model:
    """The model that `xgboost.Booster.save_model` wrote to `path` (.ubj)."""
    return treelite.frontend.load_xgboost_model(path)


def leaves(model: treelite.Model, x: np.ndarray, threads: int) -> np.ndarray[Any, Any]:
    """[batch, trees] node ids of the leaves, as XGBoost numbers them."""
    return treelite.gtil.predict_leaf(model, x, nthread=threads)
