"""libfeedfast through ctypes, with the structs of feedfast.h written out."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedfast import Request

ROOT = Path(__file__).resolve().parents[1]

OK, INVALID_ARGUMENT, OUT_OF_RANGE, NOT_FOUND, DATA_LOSS = range(5)

Pointer = ctypes.c_void_p
Size = ctypes.c_int64


class String(ctypes.Structure):
    _fields_ = [("data", ctypes.c_char_p), ("size", ctypes.c_size_t)]


class Options(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("path", ctypes.c_char_p),
        ("model", ctypes.c_char_p),
        ("version", ctypes.c_char_p),
        ("verify", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("mini_batch", ctypes.c_int64),
    ]


class RequestColumns(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("viewer", ctypes.POINTER(String)),
        ("history_members", ctypes.POINTER(String)),
        ("num_history_members", Size),
        ("history_hashtags", ctypes.POINTER(String)),
        ("num_history_hashtags", Size),
        ("shared", Pointer),
        ("num_shared", Size),
        ("num_candidates", Size),
        ("item", ctypes.POINTER(String)),
        ("actor", ctypes.POINTER(String)),
        ("root_actor", ctypes.POINTER(String)),
        ("hashtags", ctypes.POINTER(String)),
        ("hashtag_offsets", Pointer),
        ("dense", Pointer),
        ("num_dense", Size),
        ("alpha", Pointer),
        ("lambda_", Pointer),
        ("weights", Pointer),
        ("num_weights", Size),
        ("top_k", Size),
    ]


class ResultColumns(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("probabilities", Pointer),
        ("probabilities_size", Size),
        ("score", Pointer),
        ("score_size", Size),
        ("order", Pointer),
        ("order_size", Size),
        ("stage_nanoseconds", Pointer),
        ("stage_nanoseconds_size", Size),
    ]


class CallError(Exception):
    """A call that did not return FF_OK."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def library_path() -> Path | None:
    """The newest libfeedfast that a preset without a sanitizer has built."""
    built = [ROOT / "build" / preset / "cpp/c_api/libfeedfast.so" for preset in ("release", "dev")]
    return max(filter(Path.exists, built), key=lambda path: path.stat().st_mtime, default=None)


def load(path: Path) -> ctypes.CDLL:
    """The library, with the types of its functions."""
    library = ctypes.CDLL(str(path))
    library.ff_scorer_open.argtypes = [Pointer, Pointer, ctypes.c_char_p, ctypes.c_size_t]
    library.ff_scorer_score.argtypes = [
        *(Pointer, Pointer, Pointer),
        *(ctypes.c_char_p, ctypes.c_size_t),
    ]
    library.ff_scorer_close.argtypes = [Pointer]
    library.ff_scorer_close.restype = None
    for name in ("model", "version", "objective", "objective_group", "shared", "dense"):
        getattr(library, f"ff_scorer_{name}").argtypes = [Pointer, Size]
        getattr(library, f"ff_scorer_{name}").restype = String
    for name in ("num_objectives", "num_shared", "num_dense"):
        getattr(library, f"ff_scorer_{name}").argtypes = [Pointer]
        getattr(library, f"ff_scorer_{name}").restype = Size
    for name in ("max_history_members", "max_history_hashtags"):
        getattr(library, f"ff_scorer_{name}").argtypes = [Pointer]
        getattr(library, f"ff_scorer_{name}").restype = Size
    for name in ("alpha", "lambda", "weight"):
        getattr(library, f"ff_scorer_{name}").argtypes = [Pointer, Size]
        getattr(library, f"ff_scorer_{name}").restype = ctypes.c_double
    for name in ("ff_version", "ff_status_name"):
        getattr(library, name).restype = ctypes.c_char_p
    return library


def _strings(keys: Any) -> Any:
    """The keys as an array of strings, which keeps their bytes; None for None."""
    if keys is None:
        return None
    encoded = [key.encode() if isinstance(key, str) else key for key in keys]
    return (String * len(encoded))(*(String(key, len(key)) for key in encoded))


def _address(array: NDArray[Any] | None) -> int | None:
    return None if array is None else array.ctypes.data


def _array(values: Any, dtype: Any) -> NDArray[Any] | None:
    return None if values is None else np.ascontiguousarray(values, dtype=dtype)


class CRequest:
    """A request as `ff_request`; features are arrays, hashtags (keys, offsets)."""

    def __init__(
        self,
        request: Request,
        *,
        alpha: float | None = None,
        lambda_: float | None = None,
        weights: Any = None,
        top_k: int = 0,
    ) -> None:
        self.num_candidates = len(request.item)
        keys, offsets = (None, None) if request.hashtags is None else request.hashtags
        self._arrays = {
            "shared": _array(request.shared, np.float32),
            "hashtag_offsets": _array(offsets, np.int64),
            "dense": _array(request.dense, np.float32),
            "alpha": _array(alpha, np.float64),
            "lambda_": _array(lambda_, np.float64),
            "weights": _array(weights, np.float64),
        }
        columns = RequestColumns(
            struct_size=ctypes.sizeof(RequestColumns),
            num_history_members=len(request.history_members or ()),
            num_history_hashtags=len(request.history_hashtags or ()),
            num_candidates=self.num_candidates,
            top_k=top_k,
        )
        columns.viewer = None if request.viewer is None else _strings([request.viewer])
        columns.history_members = _strings(request.history_members)
        columns.history_hashtags = _strings(request.history_hashtags)
        columns.item = _strings(request.item)
        columns.actor = _strings(request.actor)
        columns.root_actor = _strings(request.root_actor)
        columns.hashtags = _strings(keys)
        for name, array in self._arrays.items():
            setattr(columns, name, _address(array))
        for name in ("shared", "dense", "weights"):
            array = self._arrays[name]
            setattr(columns, f"num_{name}", 0 if array is None else array.shape[-1])
        self.columns = columns


class Answer:
    """Arrays that take an answer, and `ff_result` over them."""

    def __init__(self, candidates: int, objectives: int, places: int) -> None:
        self.probabilities = np.full((candidates, objectives), np.nan, dtype=np.float32)
        self.score = np.full(candidates, np.nan, dtype=np.float32)
        self.order = np.full(places, -7, dtype=np.int64)
        self.stages = np.full(5, -1, dtype=np.int64)
        self.columns = ResultColumns(
            struct_size=ctypes.sizeof(ResultColumns),
            probabilities=_address(self.probabilities),
            probabilities_size=self.probabilities.size,
            score=_address(self.score),
            score_size=self.score.size,
            order=_address(self.order),
            order_size=self.order.size,
            stage_nanoseconds=_address(self.stages),
            stage_nanoseconds_size=self.stages.size,
        )


class CScorer:
    """A scorer opened by libfeedfast."""

    def __init__(self, library: ctypes.CDLL, path: Path, model: str, **options: Any) -> None:
        self._library = library
        self.handle = Pointer()
        given = Options(
            struct_size=ctypes.sizeof(Options), path=bytes(path), model=model.encode(), **options
        )
        self._call("ff_scorer_open", ctypes.byref(given), ctypes.byref(self.handle))

    def _call(self, name: str, *arguments: Any) -> None:
        message = ctypes.create_string_buffer(1024)
        status = getattr(self._library, name)(*arguments, message, len(message))
        if status != OK:
            raise CallError(status, message.value.decode(errors="replace"))

    def close(self) -> None:
        self._library.ff_scorer_close(self.handle)
        self.handle = Pointer()

    def number(self, name: str, *index: int) -> Any:
        return getattr(self._library, f"ff_scorer_{name}")(self.handle, *(index or (0,)))

    def count(self, name: str) -> int:
        return int(getattr(self._library, f"ff_scorer_{name}")(self.handle))

    def text(self, name: str, index: int = 0) -> str | None:
        found = getattr(self._library, f"ff_scorer_{name}")(self.handle, index)
        return None if found.data is None else found.data[: found.size].decode()

    def answer(self, candidates: int, places: int | None = None) -> Answer:
        return Answer(
            candidates, self.count("num_objectives"), candidates if places is None else places
        )

    def score(
        self, request: CRequest, *, timing: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """(probabilities, score, order, nanoseconds of the stages)."""
        candidates = request.num_candidates
        answer = self.answer(candidates, min(request.columns.top_k or candidates, candidates))
        if not timing:
            answer.columns.stage_nanoseconds = None
        self.score_into(request, answer.columns)
        return answer.probabilities, answer.score, answer.order, answer.stages

    def score_into(self, request: CRequest, result: ResultColumns) -> None:
        self._call(
            "ff_scorer_score", self.handle, ctypes.byref(request.columns), ctypes.byref(result)
        )
