"""Resident memory of one ranker in a process of its own: `feedfast bench request` runs this file.

    request_memory.py feedfast STORE MODEL REQUESTS
    request_memory.py tensorflow SAVED_MODEL BOOSTER REQUESTS

REQUESTS is a pickle of `feedfast.Request`s, which are scored before anything is measured. Prints a
line of JSON: {"resident": bytes, "private": bytes}; private leaves out pages of mapped files, which
all processes that map them share, and which the system can drop.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path


def main(kind: str, model: str, second: str, requests: str) -> None:
    todo = pickle.loads(Path(requests).read_bytes())
    if kind == "feedfast":
        import feedfast

        scorer = feedfast.Scorer.open(model, second)
        for request in todo:
            scorer.score(request)
    else:
        import request_tensorflow
        import xgboost

        import feedfast

        request_tensorflow.configure(1)
        function, _loaded = request_tensorflow.load(Path(model))
        booster = xgboost.Booster({"nthread": 1}, model_file=second)
        ranker = request_tensorflow.TimedRanker(
            function,
            request_tensorflow.Leaves(booster, feedfast.LeafEncoder.from_xgboost(booster), 1),
        )
        for request in todo:
            ranker(request_tensorflow.make_inputs(request))
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kib = {key: int(status[key].split()[0]) for key in ("VmRSS", "RssAnon")}
    memory = {"resident": 1024 * kib["VmRSS"], "private": 1024 * kib["RssAnon"]}
    sys.stdout.write(json.dumps(memory) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
