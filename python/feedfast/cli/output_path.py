"""Checks of a file that a command is going to write."""

from __future__ import annotations

from pathlib import Path


def require_writable(path: Path) -> None:
    """Says before the work what would fail after it."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name the file to write")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"folder {path.parent} does not exist; cannot write {path.name}")
