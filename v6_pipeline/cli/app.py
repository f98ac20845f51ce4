"""The program ``v6``: its commands, its global options, and the one place that turns an error into an exit code.

Does not belong here: what a command does (``commands``).
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from v6_pipeline import __version__
from v6_pipeline.cli import FAILED, WRONG_USE, output
from v6_pipeline.cli.commands import (
    demo,
    doctor,
    gateway,
    init,
    lake,
    positions,
    queue,
    refresh,
    slots,
    strategies,
    stream,
    trace,
    up,
)
from v6_pipeline.errors import ExaminationError, UsageError, V6Error

app = typer.Typer(
    name="v6",
    help="Keeps Interactive Brokers positions in Delta Lake. Start with 'v6 demo', or 'v6 init' and 'v6 up'.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

# The order is that of the help.
app.command("init")(init.init)
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)
app.command("up")(up.up)
app.command("gateway")(gateway.gateway)
app.command("stream")(stream.stream)
app.command("refresh")(refresh.refresh)
app.add_typer(strategies.app, name="strategies")
app.add_typer(queue.app, name="queue")
app.command("slots")(slots.slots)
app.command("positions")(positions.positions)
app.command("trace")(trace.trace)
app.add_typer(lake.app, name="lake")

_SHOWN_CHARACTERS = 80

# Typer carries its own copy of click from some version on: this is click's UsageError in both.
_ClickUsageError: type[Exception] = typer.BadParameter.__bases__[0]


def _show_version(wanted: bool) -> None:  # noqa: FBT001  (typer calls it so)
    if wanted:
        output.line(f"v6 {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    *,
    home: Annotated[
        str | None, typer.Option(metavar="PATH", help="Home to use, instead of V6_HOME.", show_default=False)
    ] = None,
    version: Annotated[  # noqa: ARG001  (its callback does the work)
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if home is not None:
        if not home.strip():
            raise UsageError("--home is empty: name the folder of an installation, such as .v6")
        # In the environment, so that child processes and handlers find the same home.
        os.environ["V6_HOME"] = str(Path(home).expanduser().absolute())


@functools.cache
def _command() -> Callable[..., object]:
    """Return the command, built once per process: typer reads the signature of every command for it."""
    return typer.main.get_command(app)


def run(arguments: Sequence[str] | None) -> int:
    """Run the program with ``arguments``, or those of the process; return the exit code."""
    try:
        code = _command()(args=None if arguments is None else list(arguments), prog_name="v6", standalone_mode=False)
    except UsageError as error:
        output.error(str(error))
        return WRONG_USE
    except ExaminationError as error:
        for line in error.lines:
            output.error(line)
        return FAILED
    except V6Error as error:
        output.error(str(error))
        return FAILED
    except _ClickUsageError as error:
        return _wrong_use(error)
    except typer.Abort:  # some versions of typer turn KeyboardInterrupt into it
        raise KeyboardInterrupt from None
    except BrokenPipeError:
        # The reader of the output, such as ``head``, has closed it. Without this Python fails again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code if isinstance(code, int) else 0


def _with_value(error: Exception, message: str) -> str:
    """Name the wrong value, as click does: some versions of typer give pydantic's message, which leaves it out."""
    from pydantic import ValidationError

    if not isinstance(error.__cause__, ValidationError):
        return message
    finding = error.__cause__.errors(include_url=False, include_context=False)[0]
    wanted, value = finding["msg"], repr(finding["input"])[:_SHOWN_CHARACTERS]
    named = wanted.replace("Input should be", f"{value} is not").partition(",")[0]
    return message.replace(wanted, named if named.startswith(value) else f"{value}: {wanted}")


def _wrong_use(error: Exception) -> int:
    message = _with_value(error, error.format_message() if hasattr(error, "format_message") else str(error))
    context = getattr(error, "ctx", None)
    if "\n" in message:  # no command was named, so the message is the help
        output.notice(message)
    elif message:  # without a message the help has been shown
        output.error(f"{message.rstrip('.')}; see '{context.command_path if context else 'v6'} --help'")
    return WRONG_USE
