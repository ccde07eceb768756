"""Per-item random effects: coefficients that are added to the logits of an item."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feedfast.vocab import Vocabulary


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class RandomEffects:
    """Coefficients by item id: logit[k] += coefficients[row of the item, k].

    They are trained apart from the ranker and more often, so they carry a version of their own.

    Attributes:
        vocabulary: Item ids; row 0 stands for unknown items.
        coefficients: [vocabulary.num_rows, objectives] float32, finite; row 0 is zero, so that an
            unknown item keeps its logits.
        version: Which training of the effects this is.
    """

    vocabulary: Vocabulary
    coefficients: NDArray[np.float32]
    version: int = 1

    def __post_init__(self) -> None:
        if self.coefficients.dtype != np.float32 or self.coefficients.ndim != 2:
            raise ValueError(
                "random effects: coefficients must be float32 [rows, objectives]; "
                f"got {self.coefficients.dtype} of shape {self.coefficients.shape}"
            )
        wrong = np.argwhere(~np.isfinite(self.coefficients))
        if wrong.size:
            row, column = wrong[0]
            raise ValueError(
                f"random effects: coefficients[{row}, {column}] = "
                f"{self.coefficients[row, column]}; must be finite"
            )
        if self.coefficients.shape[0] == 0 or self.coefficients[0].any():
            raise ValueError("random effects: row 0 of the coefficients must be there and be zero")
        if self.version < 1:
            raise ValueError(f"random effects: version must be >= 1; got {self.version}")
