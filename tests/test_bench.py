from __future__ import annotations

from pathlib import Path

import pytest

from feedfast import bench


def test_ratio_below_one_is_better_whichever_way_the_unit_runs() -> None:
    faster = bench.row("a", 2.0, "us", peer="p", peer_value=8.0, target=0.5)
    assert (faster.ratio, faster.met) == (0.25, True)
    more = bench.row(
        "b", 10.0, "GFLOP/s", peer="p", peer_value=5.0, target=0.4, smaller_is_better=False
    )
    assert (more.ratio, more.met) == (0.5, False)


def test_row_has_the_documented_keys() -> None:
    keys = ["name", "value", "unit", "peer", "peer_value", "ratio", "target", "met"]
    assert list(bench.row("a", 1.0, "bytes").as_dict()) == keys


def test_functions_are_timed_in_turns_after_one_untimed_call() -> None:
    calls: list[str] = []
    times = bench.time_interleaved(
        [lambda: calls.append("a"), lambda: calls.append("b")], repeats=3
    )
    assert calls == ["a", "b"] * 4
    assert [len(taken) for taken in times] == [3, 3]


def test_compare_divides_by_the_work() -> None:
    got = bench.compare("a", lambda: None, lambda: None, peer_name="p", work=10, repeats=3)
    assert got.value >= 0.0
    assert got.peer == "p"


def test_workloads_are_found_from_below_and_unknown_names_are_listed(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks" / "workloads"
    folder.mkdir(parents=True)
    (folder / "toy.py").write_text(
        "from feedfast.bench import row\ndef run(options):\n    yield row('toy', 1.0, 'us')\n"
    )
    (folder / "_inputs.py").write_text("")
    (tmp_path / "deep").mkdir()
    found = bench.find_workloads(tmp_path / "deep")
    assert found == folder
    rows = list(bench.load_workload("toy", found).run(bench.BenchOptions()))
    assert [r.name for r in rows] == ["toy"]
    with pytest.raises(ValueError, match=r"no benchmark named 'toys'; there are: toy"):
        bench.load_workload("toys", found)
    with pytest.raises(FileNotFoundError, match="inside a checkout"):
        bench.find_workloads(Path("/"))
