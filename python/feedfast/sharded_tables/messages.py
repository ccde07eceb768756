"""What the ranks write to each other, as 32-bit words.

- A request for rows: 0, the number of rows of each piece of the receiver, and the rows, each from
  the first of its piece. Or 1 and a text in UTF-8, filled with zeros: why there is no request.
- Gradients of rows: the number of rows of each piece of the receiver and of each replica; then of
  each piece and of each sparse replica the rows; then of each of them the float32 gradients
  [rows, columns].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from feedfast.bags import FloatArray, IntArray
from feedfast.sharded_tables.layout import Piece

Words = NDArray[np.int32]

_REQUEST, _PROBLEM = 0, 1


def request(rows: Sequence[IntArray]) -> Words:
    """A request for `rows` of each piece of the receiver."""
    message = np.empty(1 + len(rows) + sum(part.size for part in rows), np.int32)
    message[0] = _REQUEST
    message[1 : 1 + len(rows)] = [part.size for part in rows]
    _fill(message, 1 + len(rows), rows)
    return message


def problem(text: str) -> Words:
    """Why there is no request."""
    encoded = text.encode()
    message = np.zeros(1 + -(-len(encoded) // 4), np.int32)
    message[0] = _PROBLEM
    message[1:].view(np.uint8)[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    return message


def problem_of(message: Words) -> str | None:
    """The text of a problem; None where the message is a request."""
    if message[0] == _REQUEST:
        return None
    return message[1:].tobytes().rstrip(b"\0").decode(errors="replace")


def requested(message: Words, num_pieces: int) -> list[Words]:
    """The rows that a request names, of each of the receiver's pieces: views."""
    counts = message[1 : 1 + num_pieces]
    return np.split(message[1 + num_pieces :], np.cumsum(counts)[:-1]) if num_pieces else []


def gradients(
    pieces: Sequence[Piece],
    replicas: Sequence[Piece],
    is_dense: Sequence[bool],
    sums: Sequence[tuple[IntArray, FloatArray]],
) -> Words:
    """Gradients for the rank that has `pieces`.

    Args:
        pieces: Of the receiver.
        replicas: All of them.
        is_dense: For each replica: its rows do not travel in this message.
        sums: For each block its rows with gradients [n], from the first of the block, and the
            gradients [n, dim].
    """
    sent = [*pieces, *_sparse(replicas, is_dense)]
    counts = [sums[piece.block][0].size for piece in (*pieces, *replicas)]
    rows = [sums[piece.block][0] for piece in sent]
    num_values = [part.size * piece.columns for part, piece in zip(rows, sent, strict=True)]
    message = np.empty(len(counts) + sum(part.size for part in rows) + sum(num_values), np.int32)
    message[: len(counts)] = counts
    at = _fill(message, len(counts), rows)
    for piece, size in zip(sent, num_values, strict=True):
        out = message[at : at + size].view(np.float32).reshape(-1, piece.columns)
        out[...] = sums[piece.block][1][:, piece.column_begin : piece.column_end]
        at += size
    return message


def gradients_of(
    message: Words, pieces: Sequence[Piece], replicas: Sequence[Piece], is_dense: Sequence[bool]
) -> tuple[IntArray, Iterator[tuple[Piece, IntArray, FloatArray]]]:
    """What `gradients` packed.

    Returns:
        The rows with gradients of each replica [replicas], dense ones too; and the pieces and
        sparse replicas with their rows [n] and gradients [n, columns].
    """
    header = len(pieces) + len(replicas)
    counts = message[:header]
    sparse = [not dense for dense in is_dense]
    of_sent = [*counts[: len(pieces)].tolist(), *counts[len(pieces) :][sparse].tolist()]
    sent = [*pieces, *_sparse(replicas, is_dense)]

    def parts() -> Iterator[tuple[Piece, IntArray, FloatArray]]:
        row, value = header, header + sum(of_sent)
        for piece, count in zip(sent, of_sent, strict=True):
            rows = message[row : row + count].astype(np.int64)
            size = count * piece.columns
            values = message[value : value + size].view(np.float32)
            yield piece, rows, values.reshape(count, piece.columns)
            row, value = row + count, value + size

    return counts[len(pieces) :].astype(np.int64), parts()


def _sparse(replicas: Sequence[Piece], is_dense: Sequence[bool]) -> list[Piece]:
    return [piece for piece, dense in zip(replicas, is_dense, strict=True) if not dense]


def _fill(message: Words, at: int, rows: Sequence[IntArray]) -> int:
    """Writes `rows` from position `at` on; returns the position behind them."""
    for part in rows:
        message[at : at + part.size] = part
        at += part.size
    return at
