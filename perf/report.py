"""What was measured, as JSON with every round, as tables in Markdown, and as a chart."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from . import chart
from .summary import LIMIT, NONE, TIMES, Row, Table, cpu_unit, tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Column = tuple[str, Callable[[Row], float | None]]  # a title, and what of a row is below it


def write(results: dict[str, Any], output: Path) -> list[Path]:
    """``results.json``, ``results.md`` and, where matplotlib is, ``chart.png`` and ``.svg``."""
    output.mkdir(parents=True, exist_ok=True)
    paths = [output / "results.json", output / "results.md"]
    paths[0].write_text(json.dumps(results, indent=1) + "\n")
    paths[1].write_text(markdown(results))
    return paths + chart.draw(results, output)


def markdown(results: dict[str, Any]) -> str:
    return "\n".join(_lines(results)) + "\n"


def _lines(results: dict[str, Any]) -> Iterator[str]:
    yield "# Comparison of tus servers"
    yield ""
    yield from _about(results)
    for table in tables(results):
        yield ""
        yield f"## {table.about['title']}" + (
            f", {table.file_system}" if len(results["file_systems"]) > 1 else ""
        )
        yield ""
        yield from _table(table, results)


def _about(results: dict[str, Any]) -> Iterator[str]:
    yield (
        f"Measured {results['date']} with `python -m perf compare`: {results['rounds']} rounds, in "
        "each of which every server has its turn, on a fresh folder. Durability `none`, no access "
        "log; servers and load share the machine. Ratios are medians of the ratios of values from "
        "the same round. What was stored was read back and compared in every round."
    )
    if results["scale"] != 1:
        yield f"\nSizes and numbers were {results['scale']:g} of what the titles say."
    yield ""
    yield "| machine | |"
    yield "|---|---|"
    for name, text in results["machine"].items():
        yield f"| {name} | {text} |"
    yield ""
    yield "| server | version | how it runs |"
    yield "|---|---|---|"
    for name, server in results["servers"].items():
        if name != LIMIT:
            yield f"| {server['title']} | {server['version']} | {server['note']} |"
    for name, why in results["missing"].items():
        yield f"| {name} | {NONE} | not measured: {_one_line(why)} |"


def _table(table: Table, results: dict[str, Any]) -> Iterator[str]:
    # What was measured for nobody has no column.
    columns = [
        column
        for column in _columns(table, results)
        if any(column[1](row) is not None for row in table.rows)
    ]
    yield "| | " + " | ".join(title for title, _ in columns) + " |"
    yield "|---|" + "---|" * len(columns)
    for row in table.rows:
        title = table.about["limit_title"] if row.server == LIMIT else _title(row, results)
        yield f"| {title} | " + " | ".join(number(value_of(row)) for _, value_of in columns) + " |"
    for row in table.rows:
        if row.why:
            yield f"\n{_title(row, results)}: {_one_line(row.why)}."
        if row.errors:
            yield f"\n{_title(row, results)}: {row.errors:.0f} answers were errors."


def _columns(table: Table, results: dict[str, Any]) -> Iterator[Column]:
    about = table.about
    yield about["unit"], lambda row: row.median
    yield "best", lambda row: row.best
    beside = results["scenarios"].get(about["beside"], {}).get("title")
    yield (f"of its {beside}" if beside else "of the limit"), lambda row: row.of_limit
    reference = results["servers"].get(results["reference"])
    if reference:
        yield f"{TIMES} {reference['title']}", lambda row: row.ratio
    for key, title in about["extra"].items():
        yield title, partial(_extra, key)
    yield f"CPU, {cpu_unit(about)}", lambda row: row.cpu
    yield "peak RSS, MiB", lambda row: row.rss


def _extra(key: str, row: Row) -> float | None:
    return row.extra.get(key)


def _title(row: Row, results: dict[str, Any]) -> str:
    server = results["servers"][row.server]
    return f"**{server['title']}**" if server["ours"] else str(server["title"])


def number(value: float | None) -> str:
    """Three digits, or what there is before the point."""
    if value is None:
        return NONE
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _one_line(text: str) -> str:
    return " ".join(text.split())[-200:].replace("|", "/").rstrip(".")
