"""What takes part in a window of micro-batches besides the tape's own gradients."""

from __future__ import annotations

from typing import Protocol

__all__ = ["WindowParticipant"]


class WindowParticipant(Protocol):
    """Gradients that a layer collects itself and exchanges at the end of a window.

    Sharded tables are the reason: the gradient of a row belongs to the process that owns the row.
    `AccumulatingGradientTape` calls the methods in the order in which they stand here, on all
    processes at the same place. Between windows the participant adds up what the backward passes
    of the micro-batches give it.
    """

    def exchange_window(self, scale: float) -> float:
        """Sends the gradients of the window to their owners; collective.

        Args:
            scale: What the summed gradients are to be multiplied by: 1 / (sum of the weights of
                the micro-batches of all processes), which is 1 / (k * processes) unless told
                otherwise.

        Returns:
            Sum of squares of the gradients that this process owns, times scale squared.
        """
        ...

    def apply_window(self, multiplier: float) -> None:
        """Updates the owned rows with gradients times scale times `multiplier`; ends the window.

        Args:
            multiplier: 1, or less where gradients are clipped.
        """
        ...

    def discard_window(self) -> None:
        """Forgets the gradients of the window; not collective."""
        ...
