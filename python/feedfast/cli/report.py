"""A self-contained HTML page of tables and plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2

from feedfast.cli.console import format_number


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One part of the page: a heading and any of a sentence, a table and a plot (SVG text)."""

    title: str
    text: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[object]] = ()
    svg: str = ""


def write_report(
    path: Path, title: str, *, notes: Sequence[str], sections: Sequence[Section]
) -> None:
    """Writes the page; it refers to no other file and to no host."""
    source = resources.files("feedfast.cli").joinpath("report.html.j2").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(source).render(
        title=title,
        notes=notes,
        sections=[
            {
                "title": section.title,
                "text": section.text,
                "columns": section.columns,
                "rows": [[format_number(cell) for cell in row] for row in section.rows],
                "svg": section.svg,
            }
            for section in sections
        ],
    )
    path.write_text(page, encoding="utf-8")
