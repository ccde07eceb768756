"""How many unknown keys a vocabulary takes for known ones, with an exact 95% interval.

    python benchmarks/peers/vocab_false_accepts.py [members|hashtags|uuids] [unknown keys]

`feedfast bench vocab` prints the same shares as rows.
"""

from __future__ import annotations

import sys

import numpy as np
import vocab_keys
from scipy.stats import beta

import feedfast as ff

FINGERPRINT_BITS = (8, 16, 32)
TARGET = 1.2  # times 2^-bits
_STEP = 1_000_000


def count_accepted(vocabulary: ff.Vocabulary, kind: str, begin: int, asked: int) -> int:
    """Of the keys `begin..begin + asked - 1`, which are unknown, those that get a row."""
    accepted = 0
    for first in range(begin, begin + asked, _STEP):
        indices = np.arange(first, min(first + _STEP, begin + asked))
        accepted += int(np.count_nonzero(vocabulary.lookup(vocab_keys.keys_at(kind, indices))))
    return accepted


def interval(accepted: int, asked: int) -> tuple[float, float]:
    """The Clopper-Pearson interval of the share, which covers it with at least 95%."""
    low = 0.0 if accepted == 0 else beta.ppf(0.025, accepted, asked - accepted + 1)
    high = 1.0 if accepted == asked else beta.ppf(0.975, accepted + 1, asked - accepted)
    return float(low), float(high)


def main(kind: str = "members", asked: str = "10_000_000") -> None:
    size = vocab_keys.SIZES[kind]
    keys = vocab_keys.first_keys(kind, size)
    write = sys.stdout.write
    write(f"{int(asked):,} unknown keys asked of {size:,} {kind}; shares in units of 2^-bits\n")
    write(f"{'bits':>4} {'accepted':>9} {'share':>7} {'95% interval':>18} {'target':>7} verdict\n")
    for bits in FINGERPRINT_BITS:
        vocabulary = ff.Vocabulary.build(keys, fingerprint_bits=bits)
        accepted = count_accepted(vocabulary, kind, size, int(asked))
        low, high = (2**bits * end for end in interval(accepted, int(asked)))
        # Ten million keys cannot show a share near 2^-32; what they cannot refute stands.
        verdict = "met" if high <= TARGET else "missed" if low > TARGET else "not refuted"
        share = 2**bits * accepted / int(asked)
        write(
            f"{bits:4} {accepted:9,} {share:7.3f} {low:8.3f}..{high:8.3f} {TARGET:7.1f} {verdict}\n"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
