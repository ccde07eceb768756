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
        examples_per_second: Training speed of all processes since the last report; NaN outside
            training.
        loss: Mean training loss of this process's rows since the last report; NaN outside training.
        bytes_per_step: What this process hands to others in a step; NaN when it trains alone.
        exchange_share: Part of the time since the last report spent in exchanges and in waiting
            for other processes; NaN when it trains alone.
        message: One line for people.
    """

    stage: str
    step: int = 0
    num_steps: int = 0
    examples_per_second: float = math.nan
    loss: float = math.nan
    bytes_per_step: float = math.nan
    exchange_share: float = math.nan
    message: str = ""


ProgressCallback = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Tells nobody."""
