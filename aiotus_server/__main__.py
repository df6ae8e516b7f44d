"""``python -m aiotus_server`` is ``aiotus-server``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
