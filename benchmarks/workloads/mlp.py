"""Gated MLP 512 -> [1024, 1024, 512] with hidden gates, against TensorFlow's and numpy's products.

The GFLOP/s rows stand beside the peak of the same multiply-add units, probed in turns with the
kernel. The last rows time one layer in TensorFlow: the op against the composition of TensorFlow's
own ops, forward and in a training step (the op's gradient runs the layer a second time). Where
`bench_gated_mlp_peers` is built (cmake --preset release, libdnnl-dev), its rows come first: fp32,
bf16 and int8 beside oneDNN, LIBXSMM (libxsmm-dev) and the probes, in turns in one C++ program.
"""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from threadpoolctl import threadpool_limits

import feedfast.tf as fft
from feedfast import _core
from feedfast.bench import BenchOptions, BenchRow, compare, row, time_interleaved
from feedfast.gated_mlp import GatedLayer, GatedMLP

SIZES = (512, 1024, 1024, 512)
PEAK_SHARE = 0.85  # of the probe, from batch 64 on; below, weights come from the L3 cache
PEAK_SHARES = {"fp32": PEAK_SHARE, "bf16": 0.9, "int8": 0.8}
PEERS_PROGRAM = (
    Path(__file__).parents[2] / "build" / "release" / "benchmarks" / "cpp" / "bench_gated_mlp_peers"
)


def run(options: BenchOptions) -> Iterator[BenchRow]:
    if PEERS_PROGRAM.exists() and options.threads == 1:
        seconds = "0.05" if options.quick else "0.4"
        command = [PEERS_PROGRAM, f"--benchmark_min_time={seconds}", "--benchmark_format=json"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        yield from _beside_peers(json.loads(output))
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    rng = np.random.default_rng(0)
    layers = _layers(rng)
    mlp = GatedMLP(layers)
    multiply_adds = sum(a * b + b * b for a, b in itertools.pairwise(SIZES))
    with threadpool_limits(options.threads):
        for batch in (1, 16, 64, 256, 512):
            x = rng.standard_normal((batch, SIZES[0]), dtype=np.float32)
            repeats = 3 if options.quick else max(9, 500 // batch)

            def ours(x: np.ndarray = x) -> np.ndarray:
                return mlp(x, threads=options.threads)

            def numpy_peer(x: np.ndarray = x) -> np.ndarray:
                return _numpy_forward(layers, x)

            tensorflow = _tensorflow_forward(layers, x)
            np.testing.assert_allclose(ours(), numpy_peer(), atol=1e-5)
            np.testing.assert_allclose(ours(), tensorflow(), atol=1e-5)
            path = f"mlp/precision=fp32/batch={batch}/threads={options.threads}"
            for name, peer, target in (
                (f"tensorflow {tf.__version__}", tensorflow, 1.0),
                (f"numpy {np.__version__}", numpy_peer, None),
            ):
                yield compare(
                    f"{path}/peer={name.split()[0]}",
                    ours,
                    peer,
                    peer_name=name,
                    target=target,
                    repeats=repeats,
                )
            yield _share_of_peak(path, ours, 2 * batch * multiply_adds, options.threads, repeats)
        for batch in (512,) if options.quick else (512, 2048):
            yield from _in_tensorflow(batch, options)


def _beside_peers(report: dict[str, Any]) -> Iterator[BenchRow]:
    """Rows of the report of bench_gated_mlp_peers."""
    for entry in report["benchmarks"]:
        _, precision, batch = entry["name"].split("/")
        path = f"mlp/precision={precision}/batch={batch}/threads=1"
        yield row(
            f"{path}/peer=onednn",
            entry["ours_us"],
            "us",
            peer="oneDNN matmul, fused epilogue",
            peer_value=entry["onednn_us"],
            target=1.0,
        )
        if "libxsmm_us" in entry:
            yield row(
                f"{path}/peer=libxsmm",
                entry["ours_us"],
                "us",
                peer="LIBXSMM batch-reduce products",
                peer_value=entry["libxsmm_us"],
                target=1.0,
            )
        yield row(
            f"{path}/peer=probe",
            entry["ours_gops"],
            "GFLOP/s",
            peer=f"{precision} products in registers",
            peer_value=entry["peak_gops"],
            target=1 / PEAK_SHARES[precision] if int(batch) >= 64 else None,
            smaller_is_better=False,
        )


def _layers(rng: np.random.Generator) -> list[GatedLayer]:
    def normal(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    return [
        GatedLayer(normal(a, b), normal(b), normal(b, b), normal(b), "hidden")
        for a, b in itertools.pairwise(SIZES)
    ]


def _numpy_forward(layers: list[GatedLayer], x: np.ndarray) -> np.ndarray:
    for layer in layers:
        h = np.maximum(x @ layer.weight + layer.bias, 0)
        x = h / (1 + np.exp(-(h @ layer.gate_weight + layer.gate_bias)))
    return x


def _tensorflow_forward(layers: list[GatedLayer], x: np.ndarray) -> Callable[[], np.ndarray]:
    arrays = [
        [tf.constant(a) for a in (layer.weight, layer.bias, layer.gate_weight, layer.gate_bias)]
        for layer in layers
    ]

    @tf.function
    def forward(x: tf.Tensor) -> tf.Tensor:
        for weight, bias, gate_weight, gate_bias in arrays:
            h = tf.nn.relu(tf.matmul(x, weight) + bias)
            x = h * tf.sigmoid(tf.matmul(h, gate_weight) + gate_bias)
        return x

    tensor = tf.constant(x)
    return lambda: forward(tensor).numpy()


def _share_of_peak(
    path: str, ours: Callable[[], object], flops: int, threads: int, repeats: int
) -> BenchRow:
    # As many operations as one call, so that a busy machine interrupts both alike.
    steps = max(1, flops // (_core.peak_probe("fp32", 1) * threads))
    with ThreadPoolExecutor(threads - 1 or 1) as pool:

        def probe() -> int:
            helpers = [pool.submit(_core.peak_probe, "fp32", steps) for _ in range(threads - 1)]
            return _core.peak_probe("fp32", steps) + sum(helper.result() for helper in helpers)

        probe_flops = probe()
        taken, probe_taken = time_interleaved([ours, probe], repeats=repeats)
    return row(
        f"{path}/peer=peak",
        flops / float(np.median(taken)) / 1e9,
        "GFLOP/s",
        peer="multiply-adds in registers",
        peer_value=probe_flops / float(np.median(probe_taken)) / 1e9,
        target=1 / PEAK_SHARE if "/batch=1/" not in path and "/batch=16/" not in path else None,
        smaller_is_better=False,
    )


def _in_tensorflow(batch: int, options: BenchOptions) -> Iterator[BenchRow]:
    """One 1024 -> 1024 layer as `fft.layers.GatedDense`: `training` chooses between the two."""
    keras.utils.set_random_seed(0)
    layer = fft.layers.GatedDense(1024)
    x = tf.constant(np.random.default_rng(1).standard_normal((batch, 1024)), tf.float32)
    layer(x)

    def forward(training: bool) -> Callable[[], np.ndarray]:
        function = tf.function(lambda: layer(x, training=training))
        return lambda: function().numpy()

    def step(training: bool) -> Callable[[], list[np.ndarray]]:
        @tf.function
        def function() -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(tf.square(layer(x, training=training)))
            return tape.gradient(loss, [x, *layer.trainable_variables])

        return lambda: [gradient.numpy() for gradient in function()]

    np.testing.assert_allclose(forward(False)(), forward(True)(), atol=1e-5)
    repeats = 3 if options.quick else 7
    suffix = f"batch={batch}/threads={options.threads}"
    yield compare(
        f"mlp/tensorflow_forward/{suffix}",
        forward(False),
        forward(True),
        peer_name="composition of TensorFlow's ops",
        unit="ms",
        repeats=repeats,
    )
    yield compare(
        f"mlp/training_step/{suffix}",
        step(True),
        step(False),
        peer_name="the op, whose gradient runs the layer again",
        unit="ms",
        target=1.0,
        repeats=repeats,
    )
