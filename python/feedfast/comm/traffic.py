"""What the exchanges of one process add up to."""

from __future__ import annotations

from typing import NamedTuple


class Traffic(NamedTuple):
    """Running totals of one process.

    Attributes:
        exchanges: Collective calls.
        bytes_sent: Payload that this process had to hand to other processes at the least: of an
            all-reduce of B bytes between n processes 2 (n - 1) / n B, of an all-gather n - 1 times
            its own bytes, of an all-to-all the parts for others, of a broadcast n - 1 times the
            array at its root and nothing elsewhere. What an engine adds to it, such as padding and
            headers, does not count.
    """

    exchanges: int
    bytes_sent: int

    def plus(self, bytes_sent: int) -> Traffic:
        """The totals after one more exchange."""
        return Traffic(self.exchanges + 1, self.bytes_sent + bytes_sent)
