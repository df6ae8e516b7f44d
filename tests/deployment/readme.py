"""The README in pieces: its fenced blocks, and its tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
README = REPOSITORY / "README.md"


@dataclass(frozen=True)
class Block:
    """``line`` is that of its fence; ``heading`` the nearest above it."""

    language: str
    heading: str
    line: int
    text: str

    @property
    def file_name(self) -> str | None:
        """From a first line such as ``# myapp.py``."""
        match = re.match(r"# (\w+\.py)\n", self.text)
        return match[1] if match else None

    def __str__(self) -> str:
        return f"line {self.line}: {self.heading}"


def blocks(*languages: str) -> list[Block]:
    """All of them, or those in ``languages``."""
    found: list[Block] = []
    heading, inside, begun = "", "", 0
    text: list[str] = []
    for number, line in enumerate(README.read_text().splitlines(), 1):
        if not inside and line.startswith("#"):
            heading = line.lstrip("#").strip()
        elif not inside and line.startswith("```"):
            inside, begun, text = line[3:].strip() or "text", number, []
        elif line == "```":
            found.append(Block(inside, heading, begun, "\n".join(text) + "\n"))
            inside = ""
        elif inside:
            text.append(line)
    assert not inside, f"the block at line {begun} does not end"
    return [block for block in found if not languages or block.language in languages]


def table(first_column: str, heading: str | None = None) -> list[list[str]]:
    """The cells of the table whose first column is called so (below ``heading``), without
    backticks."""
    seen = heading is None
    rows: list[list[str]] = []
    for line in README.read_text().splitlines():
        if line.lstrip("#").strip() == heading:
            seen = True
        elif rows and not line.startswith("|"):
            break
        elif seen and (rows or line.startswith(f"| {first_column} |")):
            cells = re.split(r" *(?<!\\)\| *", line.strip())[1:-1]
            rows.append([cell.replace("`", "") for cell in cells])
    assert len(rows) > 2, f"no table {first_column!r}"
    return rows[2:]
