"""Model stores written by past format versions stay readable and score the same.

model_store_v1 holds `synthetic_ranker(7, num_members=20, num_hashtags=8, num_trees=3, depth=2,
units=(6,), calibrated=True, with_effects=True)`, published as `feed` with fp32 and as `feed-int8`
with int8 tables. model_store_v2 holds one more of its kind as `ranker`, with an int4, an fp16 and a
bf16 table and layers in fp32, bf16 and int8. Never rewrite them: a new format version adds a folder
of its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from feedfast import Request, Scorer

DATA = Path(__file__).parent / "data"

REQUEST = Request(
    viewer="member:3",
    history_members=["member:5", "member:19", "nobody"],
    history_hashtags=["tag:1"],
    shared=[0.5, -1.0, float("nan")],
    item=["item:0", "item:7", "unknown"],
    actor=["member:1", "member:2", "member:99"],
    root_actor=["member:1", "member:4", "member:0"],
    hashtags=(["tag:0", "tag:7", "tag:2"], [0, 2, 2, 3]),
    dense=np.linspace(-2.0, 2.0, 21, dtype=np.float32).reshape(3, 7),
)
# [candidates, objectives]; CPU targets differ in the last places.
PROBABILITIES = {
    "feed": [
        [0.833402, 0.266341, 0.598049, 0.214523, 0.122816],
        [0.948112, 0.139412, 0.140035, 0.577265, 0.072720],
        [0.654639, 0.364583, 0.687973, 0.354397, 0.390058],
    ],
    "feed-int8": [
        [0.833361, 0.266390, 0.597957, 0.214749, 0.122860],
        [0.948096, 0.139535, 0.140029, 0.577664, 0.072733],
        [0.654616, 0.364590, 0.687966, 0.354451, 0.390037],
    ],
    "ranker": [
        [0.834816, 0.304816, 0.783166, 0.540172, 0.727607],
        [0.617499, 0.568382, 0.645963, 0.399519, 0.306516],
        [0.676870, 0.358042, 0.675147, 0.372735, 0.376083],
    ],
}


@pytest.mark.parametrize("model", PROBABILITIES)
def test_past_format_versions_score_as_ever(model: str) -> None:
    store = DATA / ("model_store_v2" if model == "ranker" else "model_store_v1")
    result = Scorer.open(store, model=model, verify="full").score(REQUEST)
    np.testing.assert_allclose(result.probabilities, PROBABILITIES[model], atol=2e-6)
