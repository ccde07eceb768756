"""`feedfast inspect --memory`: what the sections of a model cost a process that has it open."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from feedfast.cli.console import Console, format_bytes
from feedfast.process_memory import (
    Memory,
    PageFaults,
    memory_by_file,
    page_faults,
    process_memory,
)
from feedfast.ranker_artifact import open_ranker
from feedfast.ranker_description import KIND
from feedfast.store import ModelStore, OpenedModel

_PAGE = os.sysconf("SC_PAGESIZE")

COLUMNS = (
    "section",
    "bytes",
    "RSS after open",
    "after load",
    "all read",
    "PSS",
    "shared",
    "minor faults",
    "major faults",
)
STAGE_COLUMNS = ("process", "RSS", "PSS", "shared", "anonymous", "minor faults", "major faults")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `feedfast inspect` that go with --memory."""
    parser.add_argument(
        "--memory",
        action="store_true",
        help="open the model, load it, read every page, and say what each section costs in memory "
        "and page faults",
    )
    parser.add_argument(
        "--pid", type=int, help="with --memory: look at this running process instead of opening"
    )


def run(args: argparse.Namespace, console: Console) -> None:
    """Prints a table of stages and one of sections."""
    store = ModelStore(args.store)
    if args.model is None:
        models = sorted({entry.model for entry in store.list()})
        if len(models) != 1:
            raise ValueError(f"--memory needs --model; models: {', '.join(models) or 'none'}")
        args.model = models[0]
    document = (
        _measure(store, args.model, args.version, console)
        if args.pid is None
        else _look_at(store, args.model, args.version, args.pid, console)
    )
    console.result(document)


def _measure(
    store: ModelStore, model: str, version: str | None, console: Console
) -> dict[str, Any]:
    stages = [("before", process_memory(), page_faults())]
    opened = store.open(model, version)
    stages.append(("open", process_memory(), page_faults()))
    at_open = _by_section(opened, memory_by_file())
    ranker = open_ranker(opened) if opened.description.get("kind") == KIND else None
    stages.append(("load", process_memory(), page_faults()))
    at_load = _by_section(opened, memory_by_file())
    faults = {name: _read_pages(opened, name) for name in opened.manifest.sections}
    stages.append(("every page read", process_memory(), page_faults()))
    at_end = _by_section(opened, memory_by_file())
    del ranker
    _, first_memory, first_faults = stages[0]
    console.table(
        f"{opened.where}",
        STAGE_COLUMNS,
        [
            [
                name,
                *map(format_bytes, (memory.rss, memory.pss, memory.shared, memory.anonymous)),
                (count - first_faults).minor,
                (count - first_faults).major,
            ]
            for name, memory, count in stages
        ],
    )
    sizes = sorted(opened.manifest.sections.values(), key=lambda s: -s.num_bytes)
    console.table(
        "sections (a blob that two sections share is shown for both)",
        COLUMNS,
        [
            [
                section.name,
                *map(
                    format_bytes,
                    (
                        section.num_bytes,
                        at_open[section.name].rss,
                        at_load[section.name].rss,
                        at_end[section.name].rss,
                        at_end[section.name].pss,
                        at_end[section.name].shared,
                    ),
                ),
                faults[section.name].minor,
                faults[section.name].major,
            ]
            for section in sizes
        ],
    )
    console.note(
        f"loading and reading all of it took {format_bytes((stages[-1][1] - first_memory).rss)}, "
        f"of which {format_bytes((stages[-1][1] - first_memory).anonymous)} belong to no file"
    )
    return {
        "model": opened.manifest.model,
        "version": opened.manifest.version,
        "stages": [
            {"stage": name, **asdict(memory), **asdict(count - first_faults)}
            for name, memory, count in stages
        ],
        "sections": [
            {
                "name": section.name,
                "bytes": section.num_bytes,
                "open": asdict(at_open[section.name]),
                "load": asdict(at_load[section.name]),
                "read": asdict(at_end[section.name]),
                "faults": asdict(faults[section.name]),
            }
            for section in sizes
        ],
    }


def _look_at(
    store: ModelStore, model: str, version: str | None, pid: int, console: Console
) -> dict[str, Any]:
    opened = store.open(model, version)
    sections = _by_section(opened, memory_by_file(pid))
    whole = process_memory(pid)
    console.table(
        f"process {pid}: {opened.where}",
        ("section", "bytes", "RSS", "PSS", "shared"),
        [
            [
                section.name,
                *map(
                    format_bytes,
                    (
                        section.num_bytes,
                        sections[section.name].rss,
                        sections[section.name].pss,
                        sections[section.name].shared,
                    ),
                ),
            ]
            for section in opened.manifest.sections.values()
        ],
    )
    console.note(
        f"the whole process: RSS {format_bytes(whole.rss)}, PSS {format_bytes(whole.pss)}, "
        f"shared {format_bytes(whole.shared)}, anonymous {format_bytes(whole.anonymous)}"
    )
    return {
        "model": opened.manifest.model,
        "version": opened.manifest.version,
        "pid": pid,
        "process": asdict(whole),
        "sections": [
            {"name": name, "bytes": opened.manifest.sections[name].num_bytes, **asdict(memory)}
            for name, memory in sections.items()
        ],
    }


def _by_section(opened: OpenedModel, files: Mapping[str, Memory]) -> dict[str, Memory]:
    def memory(name: str) -> Memory:
        # Blocks of the same rows are one file, whose mappings are counted together already.
        paths = {os.path.realpath(path) for path in opened.section_paths(name)}
        return sum((files.get(path, Memory()) for path in paths), Memory())

    return {name: memory(name) for name in opened.manifest.sections}


def _read_pages(opened: OpenedModel, name: str) -> PageFaults:
    """The faults of reading a byte of every page of a section where it is mapped."""
    before = page_faults()
    section = opened.manifest.sections[name]
    if section.kind == "table":
        arrays = [opened.table(name)]
    elif section.kind == "image":
        arrays = [opened.image(name, layout=section.layout)]
    else:
        arrays = list(opened.tensors(name).values())
    for array in arrays:
        array.reshape(-1).view(np.uint8)[::_PAGE].max(initial=0)
    return page_faults() - before
