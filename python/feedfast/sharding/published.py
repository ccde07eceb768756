"""Published step times of models whose tables are published too, to hold predictions against.

Sources, as facts:

- TorchRec DLRM: facebookresearch/dlrm, torchrec_dlrm/README.MD, "Preliminary Training Results":
  Criteo 1TB, 26 tables of 128 columns, AWS p4d (8 A100 of 40 GB).
- distributed-embeddings DLRM: NVIDIA-Merlin/distributed-embeddings, examples/dlrm/README.md: the
  same data set, global batch 65,536, 8 A100; the rows of its tables are taken to be TorchRec's.
- distributed-embeddings synthetic models: examples/benchmarks/synthetic_models, config_v3.py and
  README.md: global batch 65,536, Adagrad, DGX A100, power law of exponent 1.05. Tables that two
  features share (1 and N ids) are planned as one bag of N + 1 ids.

None says what the dense part and the framework take. So there are two predictions: from the preset
alone, with the dense layers at a third of the chip's TF32 rate; and with what the first two rows of
a model lack by it, a constant and a time per example of a rank, added to the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from feedfast.sharding.planner import plan_tables
from feedfast.sharding.step_cost import Prediction, Workload
from feedfast.sharding.table_shape import TableShape
from feedfast.sharding.topology import preset

# 156 TFLOP/s of TF32 (A100 data sheet), of which layers of this size reach about a third.
_DENSE_FLOPS = 156e12 / 3

_FITTED_ROWS = 2

_CRITEO_ROWS = (
    *(45833188, 36746, 17245, 7413, 20243, 3, 7114, 1441, 62, 29275261, 1572176, 345138, 10),
    *(2209, 11267, 128, 4, 974, 14, 48937457, 11316796, 40094537, 452104, 12606, 104, 35),
)

# Of each synthetic model: (tables, ids per example, rows, columns).
_SYNTHETIC: dict[str, tuple[tuple[tuple[int, int, int, int], ...], tuple[int, ...]]] = {
    "tiny": (
        (
            *((1, 11, 10_000, 8), (1, 11, 1_000_000, 16), (1, 11, 25_000_000, 16)),
            *((1, 1, 25_000_000, 16), (16, 1, 10, 8), (10, 1, 1000, 8), (4, 1, 10_000, 8)),
            *((2, 1, 100_000, 16), (19, 1, 1_000_000, 16)),
        ),
        (256, 128, 1),
    ),
    "small": (
        (
            *((5, 31, 10_000, 16), (3, 31, 4_000_000, 32), (1, 31, 50_000_000, 32)),
            *((1, 1, 50_000_000, 32), (30, 1, 10, 16), (30, 1, 1000, 16), (5, 1, 10_000, 16)),
            *((5, 1, 100_000, 32), (27, 1, 4_000_000, 32)),
        ),
        (512, 256, 128, 1),
    ),
    "medium": (
        (
            *((20, 51, 100_000, 64), (5, 51, 10_000_000, 64), (1, 51, 100_000_000, 128)),
            *((1, 1, 100_000_000, 128), (80, 1, 10, 32), (60, 1, 1000, 32)),
            *((80, 1, 100_000, 64), (24, 1, 200_000, 64), (40, 1, 10_000_000, 64)),
        ),
        (1024, 512, 256, 128, 1),
    ),
    "large": (
        (
            *((40, 101, 100_000, 64), (16, 101, 15_000_000, 64), (1, 101, 200_000_000, 128)),
            *((1, 1, 200_000_000, 128), (100, 1, 10, 32), (100, 1, 10_000, 32)),
            *((160, 1, 100_000, 64), (50, 1, 500_000, 64), (144, 1, 15_000_000, 64)),
        ),
        (2048, 1024, 512, 256, 1),
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedStep:
    """One published figure.

    Attributes:
        source: Who published it.
        model: Model or data set.
        num_gpus: A100s, 8 a host.
        global_batch: Examples of a step.
        step_seconds: Published, or the batch over the published examples per second.
    """

    source: str
    model: str
    num_gpus: int
    global_batch: int
    step_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A published step with its predictions.

    Attributes:
        published: The figure.
        preset_seconds: Predicted from the preset alone.
        fitted_seconds: The same plus what the first two rows of the model lack, a constant and a
            time per example of a rank; None for those two.
    """

    published: PublishedStep
    preset_seconds: float
    fitted_seconds: float | None


def _rate(source: str, model: str, gpus: int, batch: int, per_second: float) -> PublishedStep:
    return PublishedStep(
        source=source,
        model=model,
        num_gpus=gpus,
        global_batch=batch,
        step_seconds=batch / per_second,
    )


def _times(model: str, **milliseconds: float) -> Iterator[PublishedStep]:
    for gpus, value in milliseconds.items():
        yield PublishedStep(
            source="distributed-embeddings",
            model=model,
            num_gpus=int(gpus.removeprefix("gpus_")),
            global_batch=65_536,
            step_seconds=value / 1e3,
        )


PUBLISHED: tuple[PublishedStep, ...] = (
    _rate("TorchRec", "criteo", 8, 2048, 284_615),
    _rate("TorchRec", "criteo", 4, 16_384, 1_458_176),
    _rate("TorchRec", "criteo", 8, 16_384, 1_671_168),
    _rate("TorchRec", "criteo", 8, 65_536, 5_373_952),
    _rate("distributed-embeddings", "criteo", 8, 65_536, 9_157_869),
    *_times("tiny", gpus_1=24.433, gpus_8=5.537, gpus_16=4.867),
    *_times("small", gpus_1=67.355, gpus_8=17.203, gpus_16=12.461, gpus_32=11.839),
    *_times("medium", gpus_8=63.393, gpus_16=46.636, gpus_32=37.732, gpus_128=27.329),
    *_times("large", gpus_32=67.57, gpus_128=37.934),
)


def tables_of(model: str) -> list[TableShape]:
    """The tables of a published model.

    Raises:
        KeyError: No such model.
    """
    if model == "criteo":
        return [
            TableShape(name=f"c{index}", rows=rows, dim=128, optimizer="sgd")
            for index, rows in enumerate(_CRITEO_ROWS)
        ]
    return [
        TableShape(
            name=f"g{group}_{index}",
            rows=rows,
            dim=dim,
            lookups_per_example=ids,
            optimizer="adagrad",
        )
        for group, (count, ids, rows, dim) in enumerate(_SYNTHETIC[model][0])
        for index in range(count)
    ]


def _dense_weights(model: str) -> int:
    """Weights of the layers: of DLRM, as published; of the others, on all tables side by side."""
    if model == "criteo":
        vectors = len(_CRITEO_ROWS) + 1
        inputs = vectors * (vectors - 1) // 2 + 128
        layers = [(13, 512, 256, 128), (inputs, 1024, 1024, 512, 256, 1)]
    else:
        tables, units = _SYNTHETIC[model]
        layers = [(sum(count * dim for count, _, _, dim in tables), *units)]
    return sum(a * b for layer in layers for a, b in pairwise(layer))


def compare_published(
    steps: Sequence[PublishedStep] = PUBLISHED,
    report: Callable[[PublishedStep], None] | None = None,
) -> list[Comparison]:
    """Plans every published model on A100s and sets the predictions beside the figures.

    Args:
        steps: Published figures, those of one model together, smallest first.
        report: Called before each.
    """
    compared: list[Comparison] = []
    planned: dict[tuple[str, int, int], Prediction] = {}
    lacking: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for step in steps:
        if report is not None:
            report(step)
        per_host = min(8, step.num_gpus)
        topology = preset("a100", num_hosts=step.num_gpus // per_host, ranks_per_host=per_host)
        batch = step.global_batch // step.num_gpus
        weights = _dense_weights(step.model)
        dense = 6.0 * weights * batch / _DENSE_FLOPS
        work = Workload(
            batch_per_rank=batch,
            exchange="pooled",
            dense_seconds=dense,
            dense_bytes=4 * weights,
        )
        key = (step.model, step.num_gpus, batch)
        if key not in planned:
            planned[key] = plan_tables(
                tables_of(step.model), topology, work, explain=False
            ).prediction
        predicted = planned[key]
        known = lacking.setdefault((step.source, step.model), [])
        fitted = None
        if len(known) == _FITTED_ROWS:
            fitted = predicted.step_seconds + _line(known, batch)
        else:
            known.append((batch, step.step_seconds - predicted.step_seconds))
        compared.append(
            Comparison(
                published=step,
                preset_seconds=predicted.step_seconds,
                fitted_seconds=fitted,
            )
        )
    return compared


def _line(points: Sequence[tuple[int, float]], batch: int) -> float:
    """The line through two points (batch, seconds) at `batch`, falling and negative ones not."""
    (first, low), (second, high) = sorted(points)
    slope = max(0.0, (high - low) / (second - first))
    return max(0.0, low - slope * first) + slope * batch
