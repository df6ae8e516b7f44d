#!/usr/bin/env python3
"""Load aiotus-server for a long time, and report what it does not give back: see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it runs from any folder

from scripts.soaking.main import main

if __name__ == "__main__":
    sys.exit(main())
