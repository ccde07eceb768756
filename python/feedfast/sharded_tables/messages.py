"""What the ranks write to each other, as 32-bit words.

- A request: 0, what is asked of each piece of the receiver: the number n of rows, or ~n for n keys;
  then the rows, each from the first of its piece, or the keys' 64-bit codes, two words each. Or 1
  and a text in UTF-8, filled with zeros: why there is no request.
- An answer: the rows asked of each piece, [rows, columns] of the table's dtype, each piece filled
  up to whole words.
- Gradients of rows: the number of rows of each piece of the receiver and of each replica; then of
  each piece and of each sparse replica the rows; then of each of them the float32 gradients
  [rows, columns].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedfast.bags import FloatArray, IntArray
from feedfast.comm import Engine
from feedfast.sharded_tables.key_codes import Codes
from feedfast.sharded_tables.layout import Piece

Words = NDArray[np.int32]

_REQUEST, _PROBLEM = 0, 1


class BadBagsError(ValueError):
    """The bags of some rank are not lookups in the tables; raised on all ranks."""


def exchange_requests(engine: Engine, asked: Sequence[Words], *, name: str) -> list[Words]:
    """Sends a request or a problem to every rank; returns the requests of all.

    Raises:
        BadBagsError: Some rank sent a problem.
        RuntimeError: Some rank sent nothing.
    """
    received = engine.all_to_all(asked, name=name)
    problems = [
        f"rank {rank}: {text}"
        for rank, message in enumerate(received)
        if (text := _problem_of(message, rank)) is not None
    ]
    if problems:
        raise BadBagsError("; ".join(problems))
    return received


def request(asked: Sequence[IntArray | Codes]) -> Words:
    """A request for rows or, of 64-bit codes, keys of each piece of the receiver."""
    counts = [~part.size if part.dtype == np.uint64 else part.size for part in asked]
    words = [part.view(np.int32) if part.dtype == np.uint64 else part for part in asked]
    message = np.empty(1 + len(asked) + sum(part.size for part in words), np.int32)
    message[0] = _REQUEST
    message[1 : 1 + len(asked)] = counts
    _fill(message, 1 + len(asked), words)
    return message


def problem(text: str) -> Words:
    """Why there is no request."""
    encoded = text.encode(errors="backslashreplace")  # an error would leave the others waiting
    message = np.zeros(1 + -(-len(encoded) // 4), np.int32)
    message[0] = _PROBLEM
    message[1:].view(np.uint8)[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    return message


def requested(message: Words, num_pieces: int, *, sender: int) -> list[Words | Codes]:
    """What a request asks of each of the receiver's pieces: int32 rows, or uint64 codes of keys.

    Raises:
        RuntimeError: Its size is wrong; names the sender.
    """
    counts = message[1 : 1 + num_pieces].astype(np.int64)
    check_size(counts.size, num_pieces, sender=sender)
    ends = np.cumsum([0, *np.where(counts < 0, 2 * ~counts, counts)])
    words = message[1 + num_pieces :]
    check_size(words.size, int(ends[-1]), sender=sender)
    parts: list[Words | Codes] = []
    for count, begin, end in zip(counts, ends[:-1], ends[1:], strict=True):
        part = words[begin:end]
        parts.append(part.copy().view(np.uint64) if count < 0 else part)
    return parts


def as_codes(asked: Words | Codes, *, sender: int) -> Codes:
    """What was asked of a piece, which must be keys.

    Raises:
        RuntimeError: It is rows; names the sender.
    """
    if asked.dtype != np.uint64:
        raise RuntimeError(f"a message of rank {sender} has rows where there should be keys")
    return asked.view(np.uint64)


def check_size(found: int, expected: int, *, sender: int) -> None:
    """Raises RuntimeError when a message does not have the words that it should have."""
    if found != expected:
        raise RuntimeError(
            f"a message of rank {sender} has {found} words where there should be {expected}; do "
            "all ranks run the same program on the same tables?"
        )


def _problem_of(message: Words, sender: int) -> str | None:
    """The text of a problem; None where the message is a request."""
    if message.size == 0:
        check_size(0, 1, sender=sender)
    if message[0] == _REQUEST:
        return None
    return message[1:].tobytes().rstrip(b"\0").decode(errors="replace")


def size_of_rows(
    pieces: Sequence[Piece], counts: Sequence[int], dtypes: Sequence[np.dtype[Any]]
) -> int:
    """Words of an answer with so many rows of each piece; `dtypes` of the weights, by table."""
    return sum(_words_of_rows(p, n, dtypes) for p, n in zip(pieces, counts, strict=True))


def views_of_rows(
    answer: Words,
    pieces: Sequence[Piece],
    counts: Sequence[int],
    dtypes: Sequence[np.dtype[Any]],
) -> Iterator[NDArray[Any]]:
    """The rows of each piece in an answer, [count, columns]."""
    at = 0
    for piece, count in zip(pieces, counts, strict=True):
        words = _words_of_rows(piece, count, dtypes)
        values = answer[at : at + words].view(dtypes[piece.table])
        yield values[: count * piece.columns].reshape(count, piece.columns)
        at += words


def _words_of_rows(piece: Piece, count: int, dtypes: Sequence[np.dtype[Any]]) -> int:
    return -(-count * piece.columns * dtypes[piece.table].itemsize // 4)


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
    message: Words,
    pieces: Sequence[Piece],
    replicas: Sequence[Piece],
    is_dense: Sequence[bool],
    *,
    sender: int,
) -> tuple[IntArray, Iterator[tuple[Piece, IntArray, FloatArray]]]:
    """What `gradients` packed.

    Returns:
        The rows with gradients of each replica [replicas], dense ones too; and the pieces and
        sparse replicas with their rows [n] and gradients [n, columns].

    Raises:
        RuntimeError: Its size is wrong; names the sender.
    """
    header = len(pieces) + len(replicas)
    counts = message[:header]
    check_size(counts.size, header, sender=sender)
    if (counts < 0).any():
        raise RuntimeError(f"a message of rank {sender} has a negative number of rows")
    sparse = [not dense for dense in is_dense]
    of_sent = [*counts[: len(pieces)].tolist(), *counts[len(pieces) :][sparse].tolist()]
    sent = [*pieces, *_sparse(replicas, is_dense)]
    size = sum(count * (1 + piece.columns) for count, piece in zip(of_sent, sent, strict=True))
    check_size(message.size, header + size, sender=sender)

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


def _fill(message: Words, at: int, rows: Sequence[NDArray[np.integer[Any]]]) -> int:
    """Writes `rows` from position `at` on; returns the position behind them."""
    for part in rows:
        message[at : at + part.size] = part
        at += part.size
    return at
