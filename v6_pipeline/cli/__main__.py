"""``python -m v6_pipeline.cli`` is ``v6``."""

import sys

from v6_pipeline.cli import main

sys.exit(main())
