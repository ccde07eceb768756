"""A folder to which every rank writes its parts, before one manifest makes them count."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from feedfast.comm import Engine
from feedfast.sharded_tables.agreement import all_or_none
from feedfast.store import files

_TOKEN = r"part-[0-9a-f]{16}-"
_UNFINISHED = re.compile(re.escape(files.TEMPORARY_PREFIX) + _TOKEN)

Part = TypeVar("Part")
Parsed = TypeVar("Parsed")


def part_name(suffix: str) -> re.Pattern[str]:
    """What names of parts match that end in a number and `suffix`, a regular expression."""
    return re.compile(_TOKEN + r"[0-9]{5}" + suffix + r"\Z")


def save_parts(
    engine: Engine,
    folder: Path,
    manifest: str,
    *,
    name: str,
    written: re.Pattern[str],
    write: Callable[[str], list[Part]],
    describe: Callable[[list[dict[str, Any]]], bytes],
) -> list[Part]:
    """Replaces what the folder holds; collective.

    Whenever a process or the machine dies, the folder holds what it held before or the new parts,
    all of them.

    Args:
        engine: Of the ranks.
        folder: The same for all ranks, on a file system that all of them see; created where it is
            missing. One save at a time.
        manifest: Name of the file that says which parts count.
        name: Of the exchanges.
        written: `part_name` of the files.
        write: Writes this rank's files, each durably; is given what their names start with, and
            returns dataclasses that say what they are.
        describe: The manifest, from the fields of those of all ranks.

    Returns:
        What `write` returned.

    Raises:
        OSError: A file of this rank cannot be written; what was saved before stays.
        RuntimeError: The same of another rank.
    """

    def begin() -> str:
        if engine.rank == 0:
            files.make_folders(folder)
        return secrets.token_hex(8)

    _, tokens = all_or_none(engine, f"{name}_begin", begin, share=str)
    prefix = f"part-{tokens[0]}-"

    def as_text(parts: list[Part]) -> str:
        return json.dumps([asdict(part) for part in parts])  # type: ignore[call-overload]

    parts, texts = all_or_none(engine, f"{name}_parts", lambda: write(prefix), share=as_text)

    def publish() -> None:
        if engine.rank != 0:
            return
        found = [fields for text in texts for fields in json.loads(text)]
        files.sync_folder(folder)
        files.replace_durably(folder / manifest, [describe(found)])
        files.remove_abandoned(folder / manifest)
        # All parts are in place, so unfinished ones are of ranks that were killed.
        for path in folder.iterdir():
            is_old = written.match(path.name) and not path.name.startswith(prefix)
            if is_old or _UNFINISHED.match(path.name):
                path.unlink(missing_ok=True)

    all_or_none(engine, f"{name}_end", publish, share=lambda _: "")
    return parts


def read_manifest(path: Path, parse: Callable[[bytes], Parsed], *, most_bytes: int) -> Parsed:
    """What `parse` makes of a manifest.

    Raises:
        OSError: There is none.
        ValueError: It is longer than `most_bytes`, or `parse` refuses it; names the file.
    """
    if path.stat().st_size > most_bytes:
        raise ValueError(f"{path}: above {most_bytes} bytes")
    try:
        return parse(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
