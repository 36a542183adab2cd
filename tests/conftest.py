"""What all tests share: one thread per worker, so that workers do not fight for the cores and numbers do not depend on them."""

from __future__ import annotations

import os

# Before torch is imported for the first time: it reads this once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
