"""How OpenMP's threads wait for each other: set before torch is loaded, unless the user has set it.

By default an idle thread of GNU OpenMP spins for milliseconds. If any other process wants the core, the
thread that has work to do is not scheduled meanwhile, at every parallel region: training on two cores
became 19 times slower beside one busy process. Spinning for 10,000 rounds and then sleeping costs
nothing on an idle machine, and on a busy one keeps it at 4.6 times (``benchmarks/threads.md``).
"""

from __future__ import annotations

import os
import sys

if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
