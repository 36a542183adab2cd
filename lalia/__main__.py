"""``python -m lalia``: the program ``lalia``, for launchers that start modules."""

from __future__ import annotations

import sys

from lalia.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
