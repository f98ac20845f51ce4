"""Number of examples per property.

``make test`` has ten minutes for everything: each run tries some, and no two runs the same. The slots' state machine
alone is derandomized: the same steps in each run, so that what fails there fails again. ``make test-properties`` takes
its time over all of them.
"""

from __future__ import annotations

import os

SCALE = float(os.environ.get("PROPERTY_SCALE", "0.4"))


def examples(count: int) -> int:
    """``count`` at a scale of 1."""
    return max(5, round(count * SCALE))
