"""Run the command line as `python -m wslab`."""

from __future__ import annotations

import sys

from wslab.cli import main

if __name__ == "__main__":
    sys.exit(main())
