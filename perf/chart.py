"""The chart: a panel for each scenario, a bar for each server, the limit as a line."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .summary import LIMIT, NONE, Table, tables

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = 3
OURS = "#0b6e4f"
OTHERS = "#b8c0c8"
INK = "#333333"


def draw(results: dict[str, Any], output: Path) -> list[Path]:
    """``chart.png`` and ``chart.svg``; none where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: PLC0415  (only who draws needs it)

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt  # noqa: PLC0415
    except ImportError:
        return []
    panels = [table for table in tables(results) if table.about["unit"]]
    if not panels:
        return []
    with plt.rc_context({"font.size": 8, "svg.fonttype": "path", "svg.hashsalt": "perf"}):
        rows = math.ceil(len(panels) / COLUMNS)
        height = 0.62 + 0.17 * max(len(table.rows) for table in panels)
        figure, grid = plt.subplots(
            rows, COLUMNS, figsize=(10, rows * height + 0.3), squeeze=False, layout="constrained"
        )
        for axes, table in zip(grid.flat, panels, strict=False):
            _panel(axes, table, results)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        paths = [output / "chart.png", output / "chart.svg"]
        figure.savefig(paths[0], dpi=130, metadata={"Software": None})
        figure.savefig(paths[1], metadata={"Date": None})
        plt.close(figure)
    return paths


def _panel(axes: Any, table: Table, results: dict[str, Any]) -> None:
    rows = [row for row in table.rows if row.server != LIMIT][::-1]
    values = [row.median or 0 for row in rows]
    servers = [results["servers"][row.server] for row in rows]
    colours = [OURS if server["ours"] else OTHERS for server in servers]
    axes.barh([server["title"] for server in servers], values, color=colours, height=0.72)
    widest = max([*values, table.limit or 0, 1e-9])
    for place, row in enumerate(rows):
        text = NONE if row.median is None else _short(row.median)
        axes.text((row.median or 0) + widest * 0.015, place, text, va="center", color=INK)
    if table.limit is not None:
        axes.axvline(table.limit, color=INK, linewidth=1, linestyle="--")
    where = f", {table.file_system}" if len(results["file_systems"]) > 1 else ""
    limit = f"; dashed: {table.about['limit_title']}" if table.limit is not None else ""
    axes.set_title(f"{table.about['title']}{where}", loc="left", fontweight="bold", fontsize=8)
    axes.set_xlabel(f"{table.about['unit']}{limit}", loc="left", fontsize=7, color=INK)
    axes.set_xlim(0, widest * 1.16)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks([])


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
