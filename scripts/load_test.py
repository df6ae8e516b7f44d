#!/usr/bin/env python3
"""Upload to any tus 1.0.0 server, cut connections, and check what it stored: see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it runs from any folder

from scripts.load.main import main

if __name__ == "__main__":
    sys.exit(main())
