"""Arguments that commands share: tables, dates, and holdings as ACCOUNT:CONID. Wrong ones are ``UsageError``."""

from __future__ import annotations

from datetime import date
from typing import Annotated

import typer

from v6_pipeline.errors import UsageError

Key = tuple[str, int]


def complete_table(incomplete: str) -> list[str]:
    """Return the tables of the lake whose names begin with ``incomplete``."""
    from v6_pipeline.lake.tables import TABLES

    return [spec.name for spec in TABLES if spec.name.startswith(incomplete)]


TableArgument = Annotated[
    str, typer.Argument(metavar="TABLE", help="Such as streamed_positions.", autocompletion=complete_table)
]
TablesArgument = Annotated[
    str | None,
    typer.Argument(metavar="[TABLE]", help="Default: every table.", show_default=False, autocompletion=complete_table),
]


def parse_date(option: str, text: str) -> date:
    """Parse a date such as 2026-11-20."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option} {text} is not a date such as 2026-11-20") from None


def parse_key(text: str) -> Key:
    """Parse a holding such as U1234567:265598."""
    account, _, conid = text.rpartition(":")
    if not account or not conid.isascii() or not conid.isdigit() or not 0 < int(conid) < 2**63:
        raise UsageError(f"{text!r} is not ACCOUNT:CONID, such as U1234567:265598")
    return account, int(conid)
