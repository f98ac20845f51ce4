"""``v6 strategies``: which contracts are streamed, for which strategy."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from v6_pipeline.cli import home, output
from v6_pipeline.cli.membership_file import Membership, read_memberships
from v6_pipeline.cli.output import JsonOption
from v6_pipeline.errors import UsageError

if TYPE_CHECKING:
    from v6_pipeline.model import Holding
    from v6_pipeline.settings import Settings
    from v6_pipeline.state.database import StateDatabase
    from v6_pipeline.sync.registry import RegistryEntry, Selector

DEFAULT_PRIORITY = 100
"""The registry's; named here so that the help needs no import of it."""

UncheckedOption = Annotated[
    bool, typer.Option("--unchecked", help="Do not ask the gateway whether conids exist that were not seen before.")
]

app = typer.Typer(
    help="Show and change which contracts active strategies use: those are streamed.", no_args_is_help=True
)


@app.command("add")
def add(
    strategy: Annotated[str, typer.Argument(metavar="STRATEGY", show_default=False)],
    conids: Annotated[list[int] | None, typer.Argument(metavar="[CONID]...", show_default=False)] = None,
    *,
    match: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SELECTOR",
            help="Every holding of a kind, those to come included: symbol=SPX,sec_type=OPT,right=P. May be repeated.",
            show_default=False,
        ),
    ] = None,
    priority: Annotated[int, typer.Option(help="The smaller number streams first.")] = DEFAULT_PRIORITY,
    account: Annotated[str | None, typer.Option(help="Only in this account. Default: in any.")] = None,
    quantity: Annotated[
        float | None, typer.Option(help="Of each conid, negative for short. Default: all that is held.")
    ] = None,
    unchecked: UncheckedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Let a strategy use contracts, by conid or by a selector. A running streamer follows within 2 s."""
    if not conids and not match:
        raise UsageError("name at least one CONID, or a selector with --match symbol=SPX")
    if quantity is not None and not conids:
        raise UsageError("--quantity goes with conids: a selector takes all that is held")
    settings = home.load()
    from v6_pipeline.state import holdings
    from v6_pipeline.sync.registry import StrategyRegistry, check_membership

    # All are read before any is written.
    selectors = [_selector(text, account) for text in match or ()]
    with home.open_state(settings) as database:
        registry = StrategyRegistry(database, timezone=settings.timezone)
        if conids:
            check_membership(strategy, conids, account=account, quantity=quantity, priority=priority)
            if not unchecked:
                _check(settings, database, conids)
            registry.add_active(strategy, conids, account=account, quantity=quantity, priority=priority)
        for selector in selectors:
            registry.add_selector(strategy, selector, priority)
        with database.read() as connection:
            held = holdings.list_open(connection)
    warnings = _not_held(dict.fromkeys(conids or ()), held) + _not_matched(selectors, held)
    chosen = list(dict.fromkeys(conids or ()))
    texts = [selector.text for selector in selectors]
    if as_json:
        output.document({"strategy": strategy, "conids": chosen, "selectors": texts, "warnings": warnings})
        return
    _warn(warnings)
    named = [output.counted(len(chosen), "contract")] if chosen else []
    output.line(f"{strategy} uses {' and '.join(named + texts)}")


@app.command("remove")
def remove(
    strategy: Annotated[str, typer.Argument(metavar="STRATEGY", show_default=False)],
    conids: Annotated[list[int] | None, typer.Argument(metavar="[CONID]...", show_default=False)] = None,
    *,
    match: Annotated[
        str | None, typer.Option(metavar="SELECTOR", help="A selector to remove.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """End a strategy's use of contracts or of a selector; of everything, if none is named."""
    if conids and match is not None:
        raise UsageError("remove contracts or a selector, one after the other")
    settings = home.load()
    from v6_pipeline.sync.registry import StrategyRegistry

    with home.open_state(settings, must_exist=True) as database:
        registry = StrategyRegistry(database, timezone=settings.timezone)
        if match is not None:
            registry.remove_selector(strategy, match)
            ended = 1
        else:
            ended = registry.remove_active(strategy, conids or None)
    if as_json:
        output.document({"strategy": strategy, "removed": ended})
    else:
        output.line(f"{strategy}: {output.counted(ended, 'contract or selector', 'contracts or selectors')} removed")


@app.command("list")
def list_strategies(*, as_json: JsonOption = False) -> None:
    """List the strategies, their contracts and selectors, and how many holdings each entry covers now."""
    settings = home.load()
    from v6_pipeline.state import contracts, holdings
    from v6_pipeline.sync.registry import StrategyRegistry

    with home.open_state(settings, must_exist=True) as database:
        entries = StrategyRegistry(database, timezone=settings.timezone).entries()
        with database.read() as connection:
            held = holdings.list_open(connection)
            known = contracts.get(connection, [entry.conid for entry in entries if entry.conid is not None])
    names = {conid: cached.spec.local_symbol or cached.spec.symbol for conid, cached in known.items()}
    rows = [(entry, sum(_covers(entry, holding) for holding in held)) for entry in entries]
    if as_json:
        names_in_force = sorted({entry.strategy for entry in entries})
        output.document(
            {"strategies": names_in_force, "entries": [_as_document(entry, count) for entry, count in rows]}
        )
        return
    if not rows:
        output.notice(
            "no strategies yet: 'v6 strategies add NAME CONID' or 'v6 strategies add NAME --match symbol=SPX'"
        )
        return
    output.table(
        ("strategy", "conid or selector", "contract", "account", "quantity", "priority", "since", "holdings"),
        (_as_cells(entry, names, count) for entry, count in rows),
        numbers=("quantity", "priority", "holdings"),
    )


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    *,
    unchecked: UncheckedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Add the contracts of a CSV file with the header strategy,conid[,account,quantity,priority].

    Every row is checked first: if one is wrong, nothing is written. Selectors are not read from files.
    """
    rows = read_memberships(file, default_priority=DEFAULT_PRIORITY)
    settings = home.load()
    from v6_pipeline.state import holdings

    with home.open_state(settings) as database:
        if not unchecked:
            _check(settings, database, [row.conid for row in rows])
        _add_all(database, settings.timezone, rows)
        with database.read() as connection:
            held = holdings.list_open(connection)
    warnings = _not_held(dict.fromkeys(row.conid for row in rows), held)
    names = sorted({row.strategy for row in rows})
    if as_json:
        output.document({"file": file, "rows": len(rows), "strategies": names, "warnings": warnings})
        return
    _warn(warnings)
    output.line(f"{output.counted(len(rows), 'row')} of {file} imported into {', '.join(names)}")


def _check(settings: Settings, database: StateDatabase, conids: list[int]) -> None:
    """Refuse conids that the broker does not know; those seen before need no gateway."""
    from v6_pipeline.errors import GatewayError, UnknownContractError
    from v6_pipeline.sync.contract_check import check_contracts

    try:
        asyncio.run(check_contracts(settings, database, conids))
    except UnknownContractError:
        raise
    except GatewayError as error:
        raise GatewayError(
            f"cannot check the conids ({error}); with --unchecked they are added all the same"
        ) from error


def _add_all(database: StateDatabase, timezone: str, rows: list[Membership]) -> None:
    """One write for the rows that differ by conid only, in the file's order."""
    from v6_pipeline.sync.registry import StrategyRegistry

    registry = StrategyRegistry(database, timezone=timezone)
    for first, group in groupby(rows, key=lambda row: replace(row, conid=0)):
        registry.add_active(
            first.strategy,
            [row.conid for row in group],
            account=first.account,
            quantity=first.quantity,
            priority=first.priority,
        )


def _selector(text: str, account: str | None) -> Selector:
    from v6_pipeline.sync.registry import Selector

    selector = Selector.parse(text)
    if account is None:
        return selector
    if selector.account not in {None, account.upper()}:
        raise UsageError(f"--account {account} and the selector's account={selector.account} differ: give one")
    return replace(selector, account=account.upper())


def _covers(entry: RegistryEntry, holding: Holding) -> bool:
    if entry.selector is not None:
        return entry.selector.matches(holding)
    return holding.contract.conid == entry.conid and entry.account in {None, holding.account}


def _as_document(entry: RegistryEntry, holdings: int) -> dict[str, object]:
    return {
        "strategy": entry.strategy,
        "conid": entry.conid,
        "selector": None if entry.selector is None else entry.selector.text,
        "account": entry.account,
        "quantity": entry.quantity,
        "priority": entry.priority,
        "valid_from": entry.valid_from,
        "holdings": holdings,
    }


def _as_cells(entry: RegistryEntry, names: Mapping[int, str], holdings: int) -> tuple[object, ...]:
    return (
        entry.strategy,
        entry.conid or entry.selector,
        names.get(entry.conid or 0),
        entry.account or "any",
        "all" if entry.quantity is None else output.quantity(entry.quantity),
        entry.priority,
        f"{entry.valid_from:%Y-%m-%d %H:%M}Z",
        holdings,
    )


def _not_matched(selectors: Collection[Selector], held: Collection[Holding]) -> list[str]:
    return [
        f"{selector} matches no holding that is known now"
        for selector in selectors
        if not any(map(selector.matches, held))
    ]


def _not_held(conids: Collection[int], held: Collection[Holding]) -> list[str]:
    known = {holding.contract.conid for holding in held}
    missing = [conid for conid in conids if conid not in known]
    if not missing:
        return []
    listed = ", ".join(map(str, missing))
    if not held:
        return [f"no holdings are known yet ('v6 refresh' fetches them): {listed} will be streamed once held"]
    return [f"no account holds {listed}: streamed once held"]


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        output.notice(f"warning: {warning}")
