#!/usr/bin/env python3
"""Kill aiotus-server under load, again and again, and see what is left: see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it runs from any folder

from scripts.crashing.main import main

if __name__ == "__main__":
    sys.exit(main())
