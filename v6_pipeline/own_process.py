"""What a process that is the product's own sets before other imports: ``quick_start``, and a umask that closes files.

For the command line, the webserver and the streamer; their children inherit it. The code location does not import
this: a user's own Dagster may load it next to assets whose files others are meant to read. Files are their user's
alone from the first on; ``privacy`` has the exception.
"""

from __future__ import annotations

import os

import v6_pipeline.quick_start  # noqa: F401  keeps the umask with which the process was started

os.umask(0o077)
