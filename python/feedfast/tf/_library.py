"""Loads the TensorFlow op library; the only importer of the compiled ops."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from types import ModuleType

import feedfast

_NAME = "_feedfast_ops.so"
_REBUILD = (
    "FEEDFAST_WITH_TF=ON pip install --no-cache-dir --no-build-isolation --no-binary feedfast "
    "--force-reinstall --no-deps feedfast"
)


def _find_library() -> Path | None:
    """The op library in any folder of this package (an editable install has two)."""
    for folder in feedfast.__path__:
        candidate = Path(folder) / "tf" / _NAME
        if candidate.is_file():
            return candidate
    return None


def _built_for(library: Path) -> str:
    spec = importlib.util.spec_from_file_location(
        "feedfast.tf._built_for", library.with_name("_built_for.py")
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{library.with_name('_built_for.py')} is missing; reinstall feedfast")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    minor: str = module.TENSORFLOW_MINOR
    return minor


@functools.cache
def ops() -> ModuleType:
    """The generated op functions (`feedfast_pooled_lookup`, ...); loaded on first use.

    Raises:
        ImportError: TensorFlow is absent or of another minor version than the library was built
            for, or this install of feedfast has no op library. The message names the remedy.
    """
    try:
        import tensorflow as tf
    except ModuleNotFoundError as error:
        raise ImportError(
            "feedfast.tf needs TensorFlow; install it with: pip install 'feedfast[tf]'"
        ) from error
    library = _find_library()
    if library is None:
        raise ImportError(
            "this install of feedfast has no TensorFlow ops; with TensorFlow installed, rebuild "
            f"with: {_REBUILD}"
        )
    built_for = _built_for(library)
    running = ".".join(tf.__version__.split(".")[:2])
    if running != built_for:
        raise ImportError(
            f"feedfast ops were built for TensorFlow {built_for} but {tf.__version__} is "
            f"installed; install tensorflow-cpu~={built_for}.0, or rebuild with: {_REBUILD}"
        )
    module: ModuleType = tf.load_op_library(str(library))
    return module
