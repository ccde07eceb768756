"""What each process of `test_subgroups_of_three_and_four` does; run by horovodrun."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from feedfast.comm import Engine, connect


def exchange(engine: Engine, ranks: Sequence[int]) -> None:
    """All kinds of exchanges between `ranks` of the whole group, named alike in all groups."""
    mine, size = ranks[engine.rank], len(ranks)
    assert engine.size == size
    array = np.full(5, 10.0**mine)
    engine.all_reduce(array, name="sum")
    assert (array == sum(10.0**rank for rank in ranks)).all()
    rows = engine.all_gather(np.full((mine, 2), mine), name="rows")
    assert [r.tolist() for r in rows] == [[[rank, rank]] * rank for rank in ranks]
    swapped = engine.all_to_all([np.full(mine + to, 10 * mine + to) for to in ranks], name="swap")
    assert [s.tolist() for s in swapped] == [[10 * r + mine] * (r + mine) for r in ranks]
    for root in range(size):
        sent = np.full(3, mine)
        engine.broadcast(sent, root, name="sent")
        assert (sent == ranks[root]).all()
    engine.barrier(name="met")


def main(folder: Path) -> None:
    engine = connect("horovod")
    size = engine.size
    everybody = tuple(range(size))
    whole = engine.subgroup(everybody, name="everybody")
    assert whole is not None
    groups = [
        everybody,
        (0, size - 1),
        (1, 2),
        *([(1, 2, 3), (0, 1), (2, 3)] if size == 4 else []),
    ]
    for parent in (engine, whole):  # of a group of all there are subgroups, too
        members = [(ranks, parent.subgroup(ranks, name="divide")) for ranks in groups]
        for ranks, group in members:
            assert (group is not None) == (engine.rank in ranks)
            if group is not None:
                assert group.local_size == len(ranks)
                exchange(group, ranks)
                if len(ranks) < size:
                    with pytest.raises(ValueError, match="no subgroups of subgroups"):
                        group.subgroup([0])
        exchange(parent, everybody)
        for _, group in members:
            if group is not None:
                group.close()
    whole.close()
    engine.barrier(name="end")
    (folder / f"{engine.rank}.done").touch()
    engine.close()


main(Path(sys.argv[1]))
