#!/usr/bin/env python3
"""Send aiotus-server any bytes, and report what it does not stand: see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it runs from any folder

from scripts.fuzzing.main import main

if __name__ == "__main__":
    sys.exit(main())
