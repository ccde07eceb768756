from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

class BuildInfo(TypedDict):
    version: str
    compiler: str
    cuda: bool
    tensorflow: str | None

# runtime: cpp/bindings/register_runtime.cc
__version__: str

def cpu_target() -> str: ...
def supported_cpu_targets() -> list[str]: ...
def force_cpu_target(name: str) -> None: ...
def build_info() -> BuildInfo: ...

# store: cpp/bindings/register_store.cc
def map_blocks(blocks: Sequence[tuple[bytes, int, int]]) -> NDArray[np.uint8]: ...

# mph: cpp/bindings/register_mph.cc
BuildPhase = Literal["read", "hash", "sort", "place", "write"]

class VocabularyDescription(TypedDict):
    version: int
    num_keys: int
    num_rows: int
    fingerprint_bits: int
    row_bits: int
    hash_seed: int
    levels: list[tuple[int, int]]
    sections: list[tuple[str, int, int]]

class ExternalBuild:
    def __init__(
        self,
        *,
        fingerprint_bits: int,
        preset: str,
        with_rows: bool,
        of_codes: bool = False,
        threads: int,
        seed: int,
        buffer_bytes: int,
        spill_folder: bytes,
        progress: Callable[[BuildPhase, int, int | None], object] | None,
    ) -> None: ...
    def add(self, keys: object, rows: NDArray[np.int64] | None) -> None: ...
    def finish(self, path: bytes) -> None: ...

def hash_keys(keys: object, *, seed: int, threads: int = 1) -> NDArray[np.uint64]: ...

class Vocabulary(Buffer):
    @staticmethod
    def build_of_codes(
        codes: NDArray[np.uint64], *, fingerprint_bits: int, preset: str, threads: int, seed: int
    ) -> Vocabulary: ...
    @staticmethod
    def build(
        keys: object,
        *,
        fingerprint_bits: int,
        preset: str,
        rows: NDArray[np.int64] | None,
        threads: int,
        seed: int,
        progress: Callable[[BuildPhase, int, int | None], object] | None,
    ) -> Vocabulary: ...
    @staticmethod
    def open(path: bytes, verify: str) -> Vocabulary: ...
    @staticmethod
    def from_bytes(image: Buffer) -> Vocabulary: ...
    def lookup(self, keys: object, threads: int) -> NDArray[np.int64]: ...
    def lookup_codes(self, codes: NDArray[np.uint64]) -> NDArray[np.int64]: ...
    def map_rows(self, row_map: NDArray[np.int64]) -> Vocabulary: ...
    @property
    def size(self) -> int: ...
    @property
    def num_rows(self) -> int: ...
    @property
    def fingerprint_bits(self) -> int: ...
    @property
    def bits_per_key(self) -> float: ...
    def describe(self) -> VocabularyDescription: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

# mph: cpp/bindings/register_packed_keys.cc
class PackedKeys:
    def __len__(self) -> int: ...
    def __arrow_c_array__(
        self, requested_schema: object | None = None
    ) -> tuple[object, object]: ...
    @property
    def nbytes(self) -> int: ...

def split_lines(text: Buffer, *, is_last: bool) -> tuple[PackedKeys, int]: ...

# mph: cpp/bindings/register_stateless_hash.cc
def hash_rows(keys: object, *, seeds: NDArray[np.uint64], num_rows: int) -> NDArray[np.int64]: ...
def quotient_remainder_rows(
    keys: object, *, seed: int, num_quotients: int, num_remainders: int
) -> NDArray[np.int64]: ...

# mph: cpp/bindings/register_live_vocabulary.cc
class LiveCounts:
    num_keys: int
    num_rows: int
    max_num_rows: int
    num_segments: int
    num_frozen: int
    num_overlay: int
    num_exceptions: int
    num_refused: int
    nbytes: int

class LiveVocabulary:
    def __init__(
        self,
        snapshot: Vocabulary,
        *,
        capacity: int,
        min_count: int,
        expire_after: float,
        max_key_bytes: int,
        seed: int,
    ) -> None: ...
    @staticmethod
    def from_image(snapshot: Vocabulary, image: Buffer) -> LiveVocabulary: ...
    def lookup(self, keys: object, threads: int) -> NDArray[np.int64]: ...
    def observe(self, keys: object, time: float, *, new: bool) -> NDArray[np.int64]: ...
    def expire(self, time: float) -> None: ...
    def take_evicted_rows(self) -> NDArray[np.int64]: ...
    def compact(self) -> int: ...
    def image(self) -> bytes: ...
    def counts(self) -> LiveCounts: ...

# embedding_kernels: cpp/bindings/register_embedding_kernels.cc
class Table:
    @staticmethod
    def float32(array: NDArray[np.float32]) -> Table: ...
    @staticmethod
    def float16(array: NDArray[np.uint16]) -> Table: ...
    @staticmethod
    def bfloat16(array: NDArray[np.uint16]) -> Table: ...
    @staticmethod
    def quantized(packed: NDArray[np.uint8], *, dim: int, bits: int) -> Table: ...
    @property
    def num_rows(self) -> int: ...
    @property
    def dim(self) -> int: ...

def pooled_lookup(
    table: Table,
    values: NDArray[np.integer],
    offsets: NDArray[np.integer],
    weights: NDArray[np.float32] | None,
    *,
    pooling: str,
    threads: int,
) -> NDArray[np.float32]: ...
def pooled_lookup_grouped(
    features: Sequence[
        tuple[Table, NDArray[np.integer], NDArray[np.integer], NDArray[np.float32] | None, str, int]
    ],
    out: NDArray[np.float32],
    *,
    threads: int,
) -> None: ...
def validate_bags(
    values: NDArray[np.integer],
    offsets: NDArray[np.integer],
    weights: NDArray[np.float32] | None,
    *,
    num_rows: int,
) -> None: ...
def quantize_rows(
    table: NDArray[np.float32], *, bits: int, method: str, threads: int
) -> NDArray[np.uint8]: ...
def quantize_rows_at(
    packed: NDArray[np.uint8],
    rows: NDArray[np.int64],
    values: NDArray[np.float32],
    *,
    bits: int,
    method: str,
    threads: int,
) -> None: ...
def dequantize_rows(table: Table, *, threads: int) -> NDArray[np.float32]: ...
def quantization_error(
    table: Table, original: NDArray[np.float32], *, threads: int
) -> tuple[float, float, float]: ...
def read_rows(
    table: NDArray[Any], rows: NDArray[np.int64], *, lines_in_flight: int, threads: int = 1
) -> int: ...
def move_to_huge_pages(array: NDArray[Any]) -> bool: ...

# row optimizers: cpp/bindings/register_row_optimizers.cc
class RowUpdater:
    def __init__(
        self,
        *,
        rule: str,
        epsilon: float,
        beta1: float,
        beta2: float,
        weight_decay: float,
        weight_decay_mode: str,
        clipping: str,
        max_gradient: float,
        stochastic_rounding: bool,
        seed: int,
        threads: int,
    ) -> None: ...
    def state_columns(self, dim: int) -> list[int]: ...
    def apply_rows(
        self,
        table: NDArray[Any],
        format: str,
        states: list[NDArray[np.float32]],
        rows: NDArray[np.int64],
        values: NDArray[np.float32],
        *,
        learning_rate: float,
        step: int,
        row_squares: NDArray[np.float32] | None = ...,
        row_dim: int = ...,
        first_row: int = ...,
        first_column: int = ...,
    ) -> None: ...
    def apply_bags(
        self,
        table: NDArray[Any],
        format: str,
        states: list[NDArray[np.float32]],
        values: NDArray[np.int64],
        offsets: NDArray[np.int64],
        weights: NDArray[np.float32] | None,
        pooling: str,
        grad: NDArray[np.float32],
        *,
        learning_rate: float,
        step: int,
    ) -> None: ...

# gated_mlp: cpp/bindings/register_gated_mlp.cc
class GatedLayer:
    def __init__(
        self,
        weight: NDArray[np.float32] | NDArray[np.uint16] | NDArray[np.int8],
        bias: NDArray[np.float32],
        *,
        weight_scale: NDArray[np.float32] | None = None,
        gate_down: NDArray[np.float32] | NDArray[np.uint16] | NDArray[np.int8] | None,
        gate_down_scale: NDArray[np.float32] | None = None,
        gate_weight: NDArray[np.float32] | NDArray[np.uint16] | NDArray[np.int8] | None,
        gate_weight_scale: NDArray[np.float32] | None = None,
        gate_bias: NDArray[np.float32] | None,
        gate: str,
        activation: str,
    ) -> None: ...

class GatedMlp:
    def __init__(self, layers: list[GatedLayer], *, num_shared: int = 0) -> None: ...
    def forward(self, x: NDArray[np.float32], *, threads: int = 1) -> NDArray[np.float32]: ...
    @property
    def num_inputs(self) -> int: ...
    @property
    def num_outputs(self) -> int: ...
    @property
    def num_shared(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

class CrossLayer:
    def __init__(
        self,
        weight: NDArray[np.float32] | NDArray[np.uint16] | NDArray[np.int8],
        bias: NDArray[np.float32],
        *,
        weight_scale: NDArray[np.float32] | None = None,
        down: NDArray[np.float32] | NDArray[np.uint16] | NDArray[np.int8] | None = None,
        down_scale: NDArray[np.float32] | None = None,
    ) -> None: ...

class CrossNetwork:
    def __init__(self, layers: list[CrossLayer]) -> None: ...
    def forward(self, x: NDArray[np.float32], *, threads: int = 1) -> NDArray[np.float32]: ...
    @property
    def size(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

def round_to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]: ...
def quantize_columns(
    matrix: NDArray[np.float32],
) -> tuple[NDArray[np.int8], NDArray[np.float32]]: ...
def peak_probe(precision: str, steps: int) -> int: ...

# tree_encoder: cpp/bindings/register_tree_encoder.cc
class LeafEncoder:
    num_features: int
    num_trees: int
    num_leaves: int
    leaf_offsets: NDArray[np.int64]

    @staticmethod
    def from_xgboost(model: bytes, *, begin: int = 0, end: int = 0) -> LeafEncoder: ...
    @staticmethod
    def from_image(image: bytes) -> LeafEncoder: ...
    def to_image(self) -> bytes: ...
    def encode(self, x: NDArray[np.float32], *, threads: int = 1) -> NDArray[np.int32]: ...
    def ordinals(self, x: NDArray[np.float32], *, threads: int = 1) -> NDArray[np.uint8]: ...

# allreduce: cpp/bindings/register_allreduce.cc
class FusionArenaFloat32:
    offsets: list[int]
    num_accumulated: int
    fused: NDArray[np.float32]

    def __init__(
        self,
        shapes: Sequence[Sequence[int]],
        *,
        formats: Sequence[Literal["float32", "float16", "bfloat16"]] = (),
    ) -> None: ...
    def start_window(self) -> None: ...
    # The arrays of formats: float32, float16, and uint16 for bfloat16.
    def accumulate(self, gradients: Sequence[NDArray[Any]], *, threads: int = 1) -> None: ...
    def unpack(self, *, scale: float, threads: int = 1) -> list[NDArray[Any]]: ...

class FusionArenaFloat64:
    offsets: list[int]
    num_accumulated: int
    fused: NDArray[np.float64]

    def __init__(self, shapes: Sequence[Sequence[int]]) -> None: ...
    def start_window(self) -> None: ...
    def accumulate(self, gradients: Sequence[NDArray[np.float64]], *, threads: int = 1) -> None: ...
    def unpack(self, *, scale: float, threads: int = 1) -> list[NDArray[np.float64]]: ...

class SharedGroup:
    rank: int
    size: int

    def __init__(
        self, name: str, *, rank: int, size: int, buffer_bytes: int, timeout: float
    ) -> None: ...
    def close(self) -> None: ...
    def barrier(self, what: str) -> None: ...
    def all_reduce(self, array: NDArray[np.float32] | NDArray[np.float64], what: str) -> None: ...
    def broadcast(self, array: NDArray[np.uint8], root: int, what: str) -> None: ...
    def all_gather(self, mine: NDArray[np.uint8], what: str) -> list[NDArray[np.uint8]]: ...
    def all_to_all(
        self, parts: Sequence[NDArray[np.uint8]], what: str
    ) -> list[NDArray[np.uint8]]: ...

class RowAccumulator:
    dim: int
    num_rows: int
    num_slices: int

    def __init__(self, dim: int) -> None: ...
    def add(self, rows: NDArray[np.int64], values: NDArray[np.float32]) -> None: ...
    def take(self) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]: ...
    def discard(self) -> None: ...

def unique_rows(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
def unique_codes(codes: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]: ...
def partition_rows(
    rows: NDArray[np.int64], first_rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
def merge_rows(
    lists: Sequence[tuple[NDArray[np.int64], NDArray[np.float32]]], dim: int, scale: float
) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...

class DistinctRows:
    def __init__(self) -> None: ...
    def find(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...

def gather_rows(table: NDArray[Any], rows: NDArray[np.integer[Any]], out: NDArray[Any]) -> None: ...
def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]: ...
def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]: ...

# scorer: cpp/bindings/register_scorer.cc
class Scorer:
    def __init__(
        self,
        *,
        member_vocabulary: Vocabulary,
        hashtag_vocabulary: Vocabulary,
        forest: LeafEncoder,
        member_table: Table,
        hashtag_table: Table,
        leaf_table: Table,
        num_shared: int,
        mean: NDArray[np.float32],
        inv_std: NDArray[np.float32],
        towers: Sequence[tuple[GatedMlp, Sequence[int]]],
        groups: Sequence[str],
        calibrators: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]] | None],
        random_effects: tuple[Vocabulary, NDArray[np.float32]] | None,
        cross: CrossNetwork | None = None,
    ) -> None: ...
    def with_random_effects(
        self, random_effects: tuple[Vocabulary, NDArray[np.float32]] | None
    ) -> Scorer: ...
    def score(
        self,
        *,
        candidate_offsets: NDArray[np.int64],
        viewer: object,
        history_members: object,
        history_member_offsets: NDArray[np.int64],
        history_hashtags: object,
        history_hashtag_offsets: NDArray[np.int64],
        shared: NDArray[np.float32],
        item: object,
        actor: object,
        root_actor: object,
        hashtags: object,
        hashtag_offsets: NDArray[np.int64],
        dense: NDArray[np.float32],
        tradeoffs: Sequence[tuple[float, float, Sequence[float]]],
        tradeoff_of: NDArray[np.int64],
        candidates: NDArray[np.int64] | None,
        without: Sequence[str],
        top_k: int | None,
        threads: int,
        mini_batch: int,
        timing: bool,
    ) -> tuple[
        NDArray[np.float32],
        NDArray[np.float32],
        NDArray[np.int64],
        tuple[Sequence[int], int] | None,
    ]: ...
