"""What a wheel does with numpy and safetensors alone; `.ci/run` runs it where no compiler is.

Usage: python wheel_smoke.py STORE, with a store that `feedfast demo` exported. Not a pytest file:
the environment it is made for has no pytest.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np

import feedfast as ff
from feedfast import runtime


def expect_import_error(module: str, remedy: str) -> None:
    try:
        __import__(module)
    except ImportError as error:
        assert remedy in str(error), error
    else:
        raise AssertionError(f"{module} was importable")


def main(store: str) -> None:
    assert not {"tensorflow", "xgboost", "pyarrow", "ml_dtypes"} & set(sys.modules)
    info = runtime.build_info()
    assert info["tensorflow"], "the wheel was built without the TensorFlow ops"

    keys = [f"member:{i}" for i in range(1000)]
    vocabulary = ff.Vocabulary.build(keys)
    rows = vocabulary.lookup([*keys, "never seen"])
    assert sorted(rows[:-1]) == list(range(1, 1001))

    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    values, offsets = np.array([1, 3, 2]), np.array([0, 2, 2, 3])
    pooled = ff.pooled_lookup(table, values, offsets)
    assert pooled.tolist() == [[12.0, 14.0, 16.0], [0.0, 0.0, 0.0], [6.0, 7.0, 8.0]]

    opened = ff.ModelStore(store)
    assert {entry.model for entry in opened.list()} == {"feed", "feed-int8"}
    forest = opened.open("feed").image("forest", layout="forest")
    encoder = ff.LeafEncoder.from_bytes(bytes(forest))
    leaves = encoder(np.zeros((3, encoder.num_features), dtype=np.float32))
    assert leaves.shape == (3, encoder.num_trees)

    scorer = ff.Scorer.open(store, model="feed")
    layout = opened.open("feed").description
    request = ff.Request(
        viewer="user:1",
        history_members=["movie:3"],
        history_hashtags=None,
        shared=None,
        item=["movie:1", "movie:2"],
        actor=["movie:1", "movie:2"],
        root_actor=["movie:1", "movie:2"],
    )
    result = scorer.score(request)
    assert result.probabilities.shape == (2, len(result.objectives)), layout
    assert np.all((result.probabilities > 0) & (result.probabilities < 1))

    expect_import_error("feedfast.tf", "pip install 'feedfast[tf]'")
    expect_import_error("feedfast.data", "pip install 'feedfast[data]'")
    command = [sys.executable, "-m", "feedfast.cli", "train", "--data", "simulated", "--run", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done
    assert "pip install 'feedfast[" in done.stderr, done.stderr
    print("wheel smoke tests passed")


if __name__ == "__main__":
    main(sys.argv[1])
