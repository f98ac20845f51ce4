"""The command line ``v6``, which starts, stops and shows what the other packages do.

Belongs here: the program (``app``), one module per command or group of commands (``commands``), and what they share:
the home, output, child processes. Does not belong here: what Dagster also does, which is in the packages below.
Heavy packages are imported inside commands, so that ``v6 --help`` is instant. Dagster is never imported: it runs in
child processes.
"""

from __future__ import annotations

from collections.abc import Sequence

FAILED = 1
WRONG_USE = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``v6``; return the exit code: 0, 1 failed, 2 wrong use, 130 interrupted."""
    try:
        # Imported here, so that Ctrl-C is quiet from the first moment.
        import v6_pipeline.own_process  # noqa: F401  for what it does to the interpreter
        from v6_pipeline.cli.app import run

        return run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
