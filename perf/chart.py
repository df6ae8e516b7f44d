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
LINE = "#c8553d"


def draw(results: dict[str, Any], output: Path) -> list[Path]:
    """``chart.png`` and ``chart.svg``; none where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: PLC0415  (only who draws needs it)

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt  # noqa: PLC0415
    except ImportError:
        return []
    panels = [table for table in tables(results) if table.about["unit"] and table.about["charted"]]
    if not panels:
        return []
    with plt.rc_context({"font.size": 8, "svg.fonttype": "path", "svg.hashsalt": "perf"}):
        rows = math.ceil(len(panels) / COLUMNS)
        height = 0.62 + 0.16 * max(len(table.rows) for table in panels)
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
    servers = [results["servers"][row.server] for row in rows]
    widest = max([*(row.median or 0 for row in rows), table.limit or 0, 1e-9])
    if table.limit is not None:
        axes.axvline(table.limit, color=LINE, linewidth=1.2, linestyle="--", zorder=1)
    for place, (row, server) in enumerate(zip(rows, servers, strict=True)):
        colour = OURS if server["ours"] else OTHERS
        axes.barh(place, row.median or 0, color=colour, height=0.72, zorder=2)
        text = NONE if row.median is None else _short(row.median)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        at = (row.median or 0) + widest * 0.02
        axes.text(at, place, text, va="center", color=INK, bbox=box, zorder=3)
    axes.set_yticks(range(len(rows)), [server["title"] for server in servers])
    where = f", {table.file_system}" if len(results["file_systems"]) > 1 else ""
    limit = f"; dashed: {table.about['limit_title']}" if table.limit is not None else ""
    axes.annotate(
        f"{table.about['title']}{where}\n",
        (-0.36, 1),
        xycoords="axes fraction",
        fontweight="bold",
        fontsize=8,
        annotation_clip=False,
    )
    axes.annotate(
        f"{table.about['unit']}{limit}",
        (-0.36, 1.02),
        xycoords="axes fraction",
        fontsize=7,
        color=INK,
        annotation_clip=False,
    )
    axes.set_xlim(0, widest * 1.2)
    axes.set_ylim(-0.6, max(len(rows), 2) - 0.4)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks([])


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
