"""What a budget of normalised entropy leaves of the model, trained on the simulated feed.

The net is the one of the workload, so tables and layers have its shapes, but the members and
hashtags of the feed. It is exported with the smallest precisions whose normalised entropies stay
within the budget on held-out rows, and its bytes are compared, by section, with those of a
SavedModel of the same trained model on the drop-in ops. That one holds our vocabularies and our
forest, so what is left of the ratio is tables and layers alone. The part `artifact` has the same
precisions for 1 M members.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from feedfast import ModelStore
from feedfast.bench import BenchOptions, BenchRow, row
from feedfast.cli.plan_latency import DEFAULT_CONFIG
from feedfast.config import RankerConfig
from feedfast.ranker_artifact import RankerEncoder

BUDGET = 1e-4
TARGET = 1 / 4
QUICK_FEED = {
    "num_members": 300,
    "num_requests": 500,
    "num_posts": 400,
    "num_hashtags": 50,
    "num_clusters": 4,
}


def run(options: BenchOptions) -> Iterator[BenchRow]:
    # TensorFlow and pyarrow are slow to import, and other parts configure TensorFlow first.
    from feedfast.data import simulate
    from feedfast.ranker.export import artifact_of
    from feedfast.ranker.saved_model import save_model
    from feedfast.ranker.saved_model_sizes import compare_sizes
    from feedfast.ranker.stored import LabelledRequests, precisions_within_budget
    from feedfast.training import train

    dataset = simulate(**(QUICK_FEED if options.quick else {}), seed=0).dataset
    config = RankerConfig() if options.quick else DEFAULT_CONFIG
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trained = train(dataset, config, folder / "run")
        artifact = artifact_of(trained.ranker)
        encoder = RankerEncoder(artifact, threads=options.threads)
        data = LabelledRequests.of(
            dataset,
            run=trained,
            max_members=config.history.max_members,
            max_hashtags=config.history.max_hashtags,
        )
        store = ModelStore(folder / "store")
        choice = precisions_within_budget(
            encoder, data, store.path, max_ne_delta=BUDGET, threads=options.threads
        )
        encoder.publish(store, "feed", choice.precisions)
        yield row(
            "request/budget/ne_delta",
            choice.delta,
            "share",
            peer=f"the budget, on {len(data.labels):,} held-out rows",
            peer_value=BUDGET,
            target=1.0,
        )
        for section, precision in choice.precisions.items():
            yield row(
                f"request/budget/{section}={precision}",
                encoder.num_bytes(section, precision),  # type: ignore[arg-type]
                "bytes",
                peer="fp32",
                peer_value=encoder.num_bytes(section, "fp32"),
            )
        save_model(artifact, folder / "saved_model")
        sizes = compare_sizes(store.open("feed"), folder / "saved_model")
        total = ("total", sum(ours for _, ours, _ in sizes), sum(peer for *_, peer in sizes))
        for part, ours, peer in (*sizes, total):
            yield row(
                f"request/budget/artifact/{part}",
                ours,
                "bytes",
                peer="SavedModel on the drop-in ops",
                peer_value=peer,
                target=TARGET if part == "total" else None,
            )
