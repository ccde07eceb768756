"""What training and evaluation tell about where they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """One moment of long work.

    Attributes:
        stage: `features`, `select` (training that finds the number of epochs), `final` (training on
            all training rows), `baseline`, `evaluate`.
        step: Steps of the stage that are done.
        num_steps: Most steps the stage takes; 0 if unknown.
        examples_per_second: Training speed since the last report; NaN outside training.
        loss: Mean training loss since the last report; NaN outside training.
        message: One line for people.
    """

    stage: str
    step: int = 0
    num_steps: int = 0
    examples_per_second: float = math.nan
    loss: float = math.nan
    message: str = ""


ProgressCallback = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Tells nobody."""
