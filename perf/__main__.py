"""``python -m perf COMMAND``: run on an idle machine. ``compare --help`` tells its options."""

from __future__ import annotations

import importlib
import sys

COMMANDS = ("compare", "portable", "lag", "locks")

if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in COMMANDS:
        command = sys.argv.pop(1)
        sys.exit(importlib.import_module(f"perf.{command}").main())
    else:
        sys.exit(f"usage: python -m perf {{{','.join(COMMANDS)}}}")
