"""libfeedfast: the bits of the Python scorer, refusals, threads, symbols, and the CMake package.

Needs the library of a preset: `cmake --build --preset release --target feedfast_c`, which `make
test` builds before it comes here.
"""

from __future__ import annotations

import ctypes
import dataclasses
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import feedfast
from c_interface import (
    DATA_LOSS,
    INVALID_ARGUMENT,
    NOT_FOUND,
    ROOT,
    CallError,
    CRequest,
    CScorer,
    ResultColumns,
    library_path,
    load,
)
from feedfast import Request, Scorer
from feedfast.config import CrossConfig
from feedfast.ranker_artifact import publish_ranker
from feedfast.store import ModelStore
from synthetic_ranker import OBJECTIVES, random_request, synthetic_ranker

LIBRARY = library_path()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="no preset has built libfeedfast")

SMALL = {
    "member_table": "int8",
    "hashtag_table": "int4",
    "leaf_table": "bf16",
    "layers": "int8",
}
# Every kind of section, table layout and layer between them.
MODELS: dict[str, tuple[dict[str, Any], Any]] = {
    "plain": ({"with_effects": True, "calibrated": True}, "fp32"),
    "bare": ({"objectives": OBJECTIVES[:1]}, "fp32"),
    "small": ({"with_effects": True, "calibrated": True}, SMALL),
    "low-rank": ({"gates": {"passive": "low_rank", "active": None}}, {"layers": "bf16"}),
    "cross": ({"cross": CrossConfig(layers=2)}, {"member_table": "fp16"}),
    "cross-small": ({"cross": CrossConfig(layers=2, rank=5), "calibrated": True}, SMALL),
    "no-features": ({"num_shared": 0, "num_dense": 1}, "fp32"),
}


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    assert LIBRARY is not None
    return load(LIBRARY)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store")
    for model, (arguments, precision) in MODELS.items():
        publish_ranker(
            ModelStore(path), model, synthetic_ranker(5, **arguments), precision=precision
        )
    return path


@pytest.fixture(scope="module")
def scorer(library: ctypes.CDLL, store: Path) -> Iterator[CScorer]:
    opened = CScorer(library, store, "plain")
    yield opened
    opened.close()


def assert_same_bits(found: tuple[Any, ...], want: Any) -> None:
    probabilities, score, order, _ = found
    assert probabilities.tobytes() == want.probabilities.tobytes()
    assert score.tobytes() == want.score.tobytes()
    np.testing.assert_array_equal(order, want.order)


@pytest.mark.parametrize("model", MODELS)
def test_bits_are_those_of_the_python_scorer(library: ctypes.CDLL, store: Path, model: str) -> None:
    artifact = synthetic_ranker(5, **MODELS[model][0])
    rng = np.random.default_rng(20_261_123)
    python = Scorer.open(store, model=model)
    opened = [
        CScorer(library, store, model, verify=1),
        CScorer(library, store, model, threads=3, mini_batch=7),
    ]
    for candidates in (0, 1, 5, 64):
        request = random_request(rng, artifact, candidates)
        for given in (
            request,
            dataclasses.replace(request, root_actor=None, hashtags=None, shared=None),
            Request(None, None, None, None, request.item),
        ):
            want = python.score(given)
            for each in opened:
                assert_same_bits(each.score(CRequest(given)), want)
    for each in opened:
        each.close()


@pytest.mark.parametrize("model", ["feed", "feed-int8", "ranker"])
def test_past_format_versions_score_alike(library: ctypes.CDLL, model: str) -> None:
    path = ROOT / "tests/data" / ("model_store_v2" if model == "ranker" else "model_store_v1")
    request = random_request(np.random.default_rng(1), synthetic_ranker(7), 40)
    opened = CScorer(library, path, model, verify=1)
    assert_same_bits(opened.score(CRequest(request)), Scorer.open(path, model=model).score(request))
    opened.close()


def test_tradeoffs_top_k_and_times(scorer: CScorer, store: Path) -> None:
    request = random_request(np.random.default_rng(2), synthetic_ranker(5), 33)
    python = Scorer.open(store, model="plain")
    for options in (
        {"alpha": 0.9},
        {"lambda_": 0.0},
        {"weights": [1.0, 2.0, 3.0, 4.0, 5.0], "alpha": 0.0},
    ):
        assert_same_bits(
            scorer.score(CRequest(request, **options)), python.score(request, **options)
        )
    for top_k in (1, 10, 33, 100):
        assert_same_bits(
            scorer.score(CRequest(request, top_k=top_k)), python.score(request, top_k=top_k)
        )
    *_, stages = scorer.score(CRequest(request), timing=True)
    assert (stages >= 0).all()
    assert stages.sum() > 0


def test_says_what_is_open(library: ctypes.CDLL, scorer: CScorer, store: Path) -> None:
    python = Scorer.open(store, model="plain")
    assert scorer.text("model") == "plain"
    assert scorer.text("version") == python.version
    for name, names in (
        ("objective", python.objectives),
        ("shared", python.shared_names),
        ("dense", python.dense_names),
    ):
        assert scorer.count(f"num_{name}{'s' if name == 'objective' else ''}") == len(names)
        assert [scorer.text(name, i) for i in range(len(names))] == list(names)
        assert scorer.text(name, -1) is None
        assert scorer.text(name, len(names)) is None
    utility = python.utility
    for k, (objective, weight) in enumerate(zip(utility.objectives, utility.weights, strict=True)):
        assert scorer.text("objective_group", k) == objective.group
        assert scorer.number("weight", k) == weight
    assert scorer.number("alpha") == utility.alpha
    assert scorer.number("lambda") == utility.other_weight
    assert scorer.count("max_history_members") == python.history.max_members
    assert scorer.count("max_history_hashtags") == python.history.max_hashtags
    assert library.ff_version().decode() == feedfast.__version__
    header = (ROOT / "cpp/c_api/include/feedfast/feedfast.h").read_text()
    found = re.search(r"#define FF_ABI_VERSION (\d+)", header)
    assert found is not None
    assert library.ff_abi_version() == int(found[1])
    names = re.findall(r"(FF_[A-Z_]+) = (\d+),? +/\*", header.split("typedef struct ff_string")[0])
    assert {int(n): library.ff_status_name(int(n)).decode() for _, n in names} == {
        int(n): name for name, n in names
    }


def test_many_threads_share_a_scorer(scorer: CScorer, store: Path) -> None:
    artifact = synthetic_ranker(5)
    python = Scorer.open(store, model="plain")
    rng = np.random.default_rng(3)
    requests = [random_request(rng, artifact, int(n)) for n in rng.integers(0, 50, 24)]
    wanted = [python.score(request) for request in requests]

    def work(thread: int) -> None:
        for at in np.random.default_rng(thread).permutation(len(requests)).tolist() * 5:
            assert_same_bits(scorer.score(CRequest(requests[at])), wanted[at])

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(work, thread) for thread in range(6)]:
            done.result(timeout=60)


def test_opens_the_largest_version(library: ctypes.CDLL, tmp_path: Path) -> None:
    for seed in range(3):
        publish_ranker(ModelStore(tmp_path), "feed", synthetic_ranker(seed, num_members=20))
    folder = tmp_path / "models/feed"
    (folder / ".tmp-000009").mkdir()
    (folder / "000010").mkdir()  # without a manifest
    for version, opened in ((None, "000003"), (b"2", "000002"), (b"000001", "000001")):
        scorer = CScorer(library, tmp_path, "feed", version=version)
        assert scorer.text("version") == opened
        scorer.close()
    with pytest.raises(CallError, match=r"no version 000007 .* versions: 000001, 000002") as error:
        CScorer(library, tmp_path, "feed", version=b"7")
    assert error.value.status == NOT_FOUND
    with pytest.raises(CallError, match="no model 'reels'; models: feed") as error:
        CScorer(library, tmp_path, "reels")
    assert error.value.status == NOT_FOUND
    with pytest.raises(CallError, match="no model 'feed'; models: none"):
        CScorer(library, tmp_path / "nowhere", "feed")


def test_an_open_version_is_not_collected(library: ctypes.CDLL, tmp_path: Path) -> None:
    from feedfast.store.locks import hold_alone
    from feedfast.store.versions import manifest_path

    version = publish_ranker(ModelStore(tmp_path), "feed", synthetic_ranker(0, num_members=20))
    file = manifest_path(tmp_path, "feed", version)
    scorer = CScorer(library, tmp_path, "feed")
    assert hold_alone(file) is None
    scorer.close()
    lock = hold_alone(file)
    assert lock is not None
    lock.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": b"one"}, "version must be a number such as 1 or 000001; got 'one'"),
        ({"threads": -1}, "threads = -1; must be >= 0"),
        ({"mini_batch": 4097}, "mini_batch = 4097; allowed: 0 to 4096"),
        ({"verify": 2}, "verify = 2"),
    ],
)
def test_options_are_checked(
    library: ctypes.CDLL, store: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(CallError, match=re.escape(message)) as error:
        CScorer(library, store, "plain", **options)
    assert error.value.status == INVALID_ARGUMENT
    with pytest.raises(CallError, match=r"'\.\./plain' is not a name"):
        CScorer(library, store, "../plain")


def test_requests_are_checked(scorer: CScorer) -> None:
    request = random_request(np.random.default_rng(4), synthetic_ranker(5), 6)

    def refused(message: str, **changes: Any) -> None:
        given = CRequest(request, weights=[1.0] * 5, alpha=0.5, lambda_=1.0)
        for name, value in changes.items():
            setattr(given.columns, name, value)
        with pytest.raises(CallError, match=message) as error:
            scorer.score_into(given, ResultColumns(struct_size=ctypes.sizeof(ResultColumns)))
        assert error.value.status == INVALID_ARGUMENT

    falling = np.array([0, 2, 1, 3, 3, 3, 3], dtype=np.int64)
    refused("num_shared = 2; the model has 3", num_shared=2)
    refused("num_dense = 8; the model has 7", num_dense=8)
    refused("num_weights = 4; the model has 5", num_weights=4)
    refused("num_history_members = -1", num_history_members=-1)
    refused("num_history_hashtags = -5", num_history_hashtags=-5)
    refused("num_candidates = -1", num_candidates=-1)
    refused("top_k = -1", top_k=-1)
    refused(r"hashtag_offsets\[2\] = 1", hashtag_offsets=falling.ctypes.data)
    refused("hashtags", hashtags=None)
    refused("struct_size is 8; at least", struct_size=8)
    wrong = np.array([1.5])
    refused("alpha = 1.5; allowed: 0 to 1", alpha=wrong.ctypes.data)


def test_results_are_checked_and_may_be_left_out(scorer: CScorer) -> None:
    request = CRequest(random_request(np.random.default_rng(4), synthetic_ranker(5), 6), top_k=2)
    wanted = scorer.score(request)[2]
    order = np.full(3, -9, dtype=np.int64)
    result = ResultColumns(
        struct_size=ctypes.sizeof(ResultColumns), order=order.ctypes.data, order_size=3
    )
    scorer.score_into(request, result)
    assert order.tolist() == [*wanted, -9]
    for name, needed in (
        ("probabilities", 30),
        ("score", 6),
        ("order", 2),
        ("stage_nanoseconds", 5),
    ):
        result = ResultColumns(struct_size=ctypes.sizeof(ResultColumns))
        setattr(result, name, order.ctypes.data)
        setattr(result, f"{name}_size", needed - 1)
        message = f"{name}_size = {needed - 1}; needs at least {needed}"
        with pytest.raises(CallError, match=message):
            scorer.score_into(request, result)


class NewerRequest(ctypes.Structure):
    """A request of a header that has one member more."""

    _fields_ = [("known", type(CRequest(Request(None, None, None, None, [])).columns))]
    _fields_.append(("added", ctypes.c_int64))


def test_newer_structs_are_read_unless_they_use_what_is_new(scorer: CScorer) -> None:
    request = CRequest(random_request(np.random.default_rng(4), synthetic_ranker(5), 6))
    newer = NewerRequest(request.columns, 0)
    newer.known.struct_size = ctypes.sizeof(newer)
    result = ResultColumns(struct_size=ctypes.sizeof(ResultColumns))
    request.columns = newer  # type: ignore[assignment]
    scorer.score_into(request, result)
    newer.added = 1
    with pytest.raises(CallError, match=f"byte {ctypes.sizeof(newer) - 8} of"):
        scorer.score_into(request, result)


def test_messages_are_cut_to_the_buffer(library: ctypes.CDLL) -> None:
    message = ctypes.create_string_buffer(b"x" * 9, 10)
    handle = ctypes.c_void_p(1)
    assert library.ff_scorer_open(None, ctypes.byref(handle), message, 4) == INVALID_ARGUMENT
    assert message.raw == b"opt\0xxxxx\0"
    assert handle.value is None
    assert library.ff_scorer_open(None, ctypes.byref(handle), None, 0) == INVALID_ARGUMENT
    assert library.ff_scorer_open(None, None, None, 0) == INVALID_ARGUMENT
    library.ff_scorer_close(None)


def test_what_is_no_ranker_is_refused(library: ctypes.CDLL) -> None:
    for model in ("feed", "tensors"):
        with pytest.raises(CallError, match='kind null is not "ranker"') as error:
            CScorer(library, ROOT / "tests/data/model_store_v2", model)
        assert error.value.status == DATA_LOSS


def test_exports_nothing_else() -> None:
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", str(LIBRARY)], capture_output=True, text=True, check=True
    ).stdout
    exported = {line.split()[-1] for line in listed.splitlines()}
    header = (ROOT / "cpp/c_api/include/feedfast/feedfast.h").read_text()
    declared = set(re.findall(r"FF_API [^;(]*?\b(ff_\w+)\(", header))
    assert exported == declared


def test_header_is_c99_and_cpp(tmp_path: Path) -> None:
    include = ROOT / "cpp/c_api/include"
    for compiler, standard, suffix in (("gcc", "c99", "c"), ("g++", "c++11", "cc")):
        source = tmp_path / f"include.{suffix}"
        source.write_text(
            "#include <feedfast/feedfast.h>\nint main(void) { return ff_version() == 0; }"
        )
        flags = [f"-std={standard}", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
        subprocess.run([compiler, *flags, "-fsyntax-only", f"-I{include}", str(source)], check=True)


def test_package_builds_the_example(store: Path, tmp_path: Path) -> None:
    cmake = shutil.which("cmake")
    assert cmake is not None
    assert LIBRARY is not None

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            [*map(str, command)], capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    prefix, build = tmp_path / "prefix", tmp_path / "build"
    preset = LIBRARY.parents[2]
    run(cmake, "--install", preset, "--prefix", prefix, "--component", "c_api")
    run(cmake, "-S", ROOT / "examples/c", "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}")
    run(cmake, "--build", build)
    items = {"item:3": "member:1", "item:77": "member:2", "none": "member:299"}
    printed = run(
        build / "score", store, "plain", "member:5", *(f"{i}={a}" for i, a in items.items())
    )
    python = Scorer.open(store, model="plain")
    result = python.score(
        Request("member:5", None, None, None, list(items), actor=list(items.values()))
    )
    rows = [line.split("\t") for line in printed.splitlines()]
    assert [row[0] for row in rows] == [list(items)[c] for c in result.order]
    for row, c in zip(rows, result.order, strict=True):
        found = {name: np.float32(value) for name, _, value in (x.partition("=") for x in row[1:])}
        assert found == {
            "score": result.score[c],
            **dict(zip(result.objectives, result.probabilities[c], strict=True)),
        }
    done = subprocess.run(
        [build / "score", store, "reels", "member:5", "a=b"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("FF_NOT_FOUND: ")
