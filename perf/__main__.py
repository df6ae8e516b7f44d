"""``python -m perf portable`` and ``python -m perf lag``: run on an idle machine."""

from __future__ import annotations

import sys

from . import lag, portable

COMMANDS = {"portable": portable.main, "lag": lag.main}

if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in COMMANDS:
        COMMANDS[sys.argv[1]]()
    else:
        sys.exit(f"usage: python -m perf {{{','.join(COMMANDS)}}}")
