"""``v6 strategies``: the contracts of each active strategy, which are streamed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from v6_pipeline.cli import home, output
from v6_pipeline.cli.output import JsonOption
from v6_pipeline.errors import UsageError

if TYPE_CHECKING:
    from v6_pipeline.cli.strategy_file import StrategyEntry
    from v6_pipeline.model import Holding
    from v6_pipeline.settings import Settings
    from v6_pipeline.state.database import StateDatabase
    from v6_pipeline.state.registry.assignments import RegistryEntry
    from v6_pipeline.state.registry.selector import Selector

DEFAULT_PRIORITY = 100
"""The registry's; named here so that the help needs no import of it."""

UncheckedOption = Annotated[
    bool, typer.Option("--unchecked", help="Do not check with the gateway that new conids exist.")
]


def _complete_strategy(context: typer.Context, incomplete: str) -> list[str]:
    """Return the strategies of the home in use; none if its state is missing or of another version."""
    from v6_pipeline.errors import V6Error
    from v6_pipeline.state.database import StateDatabase
    from v6_pipeline.state.registry.registry import StrategyRegistry

    chosen = context.find_root().params.get("home")
    if chosen is not None:
        os.environ["V6_HOME"] = str(chosen)
    try:
        settings = home.load()
        found = StateDatabase.examine(settings.state_database_url, name_for_messages="the state", busy_seconds=0.2)
        if not found.is_current:
            return []
        with home.open_state(settings, must_exist=True) as database:
            entries = StrategyRegistry(database).entries()
    except V6Error:
        return []
    return sorted({entry.strategy for entry in entries if entry.strategy.startswith(incomplete)})


StrategyArgument = Annotated[
    str, typer.Argument(metavar="STRATEGY", show_default=False, autocompletion=_complete_strategy)
]

app = typer.Typer(help="Show and change the contracts of active strategies, which are streamed.", no_args_is_help=True)


@app.command("add")
def add(
    strategy: StrategyArgument,
    conids: Annotated[list[int] | None, typer.Argument(metavar="[CONID]...", show_default=False)] = None,
    *,
    match: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SELECTOR",
            help="Every present and future holding of a kind: symbol=SPX,sec_type=OPT,right=P. May be repeated.",
            show_default=False,
        ),
    ] = None,
    priority: Annotated[int, typer.Option(help="The smallest number streams first.")] = DEFAULT_PRIORITY,
    account: Annotated[str | None, typer.Option(help="Only in this account. Default: in any.")] = None,
    quantity: Annotated[
        float | None, typer.Option(help="Of each conid, negative for short. Default: the whole holding.")
    ] = None,
    unchecked: UncheckedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Let a strategy use contracts, by conid or by a selector. A running streamer follows within 2 s."""
    if not conids and not match:
        raise UsageError("name at least one CONID, or a selector with --match symbol=SPX")
    if quantity is not None and not conids:
        raise UsageError("--quantity goes with conids: a selector takes the whole holding")
    settings = home.load()
    from v6_pipeline.cli.strategy_file import StrategyEntry
    from v6_pipeline.state.registry.changes import check_membership
    from v6_pipeline.state.registry.selector import Selector

    # All are checked before any is written.
    chosen = tuple(dict.fromkeys(conids or ()))
    selectors = tuple(Selector.parse(text).within(account) for text in match or ())
    if chosen:
        check_membership(strategy, chosen, account=account, quantity=quantity, priority=priority)
    entry = StrategyEntry(
        strategy=strategy, conids=chosen, selectors=selectors, account=account, quantity=quantity, priority=priority
    )
    warnings = _add(settings, [entry], unchecked=unchecked)
    texts = [selector.text for selector in selectors]
    named = [output.counted(len(chosen), "contract")] if chosen else []
    content = {"strategy": strategy, "conids": chosen, "selectors": texts, "warnings": warnings}
    _show(content, f"{strategy} uses {' and '.join(named + texts)}", as_json=as_json)


@app.command("remove")
def remove(
    strategy: StrategyArgument,
    conids: Annotated[list[int] | None, typer.Argument(metavar="[CONID]...", show_default=False)] = None,
    *,
    match: Annotated[
        str | None, typer.Option(metavar="SELECTOR", help="A selector to remove.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Remove contracts or a selector from a strategy; everything, if none is named."""
    if conids and match is not None:
        raise UsageError("--match cannot be combined with conids: remove contracts and selectors one after the other")
    settings = home.load()
    from v6_pipeline.state.registry.registry import StrategyRegistry

    with home.open_state(settings, must_exist=True) as database:
        registry = StrategyRegistry(database, timezone=settings.timezone)
        if match is not None:
            registry.remove_selector(strategy, match)
            ended = 1
        else:
            ended = registry.remove_active(strategy, conids or None)
    removed = output.counted(ended, "contract or selector", "contracts or selectors")
    output.result({"strategy": strategy, "removed": ended}, f"{strategy}: {removed} removed", as_json=as_json)


@app.command("list")
def list_strategies(*, as_json: JsonOption = False) -> None:
    """List the strategies, their contracts and selectors, and how many holdings each entry covers now."""
    settings = home.load()
    from v6_pipeline.state.account import contracts, holdings
    from v6_pipeline.state.registry.registry import StrategyRegistry

    with home.open_state(settings, must_exist=True) as database:
        entries = StrategyRegistry(database, timezone=settings.timezone).entries()
        held = holdings.list_open(database)
        known = contracts.get(database, [entry.conid for entry in entries if entry.conid is not None])
    names = {conid: cached.spec.local_symbol or cached.spec.symbol for conid, cached in known.items()}
    rows = [(entry, sum(map(entry.covers, held))) for entry in entries]
    if as_json:
        documents = [_as_document(entry, count) for entry, count in rows]
        output.document({"strategies": sorted({entry.strategy for entry in entries}), "entries": documents})
        return
    if not rows:
        output.notice("no strategies yet: add one with 'v6 strategies add NAME CONID' or with --match symbol=SPX")
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
    """Add the contracts and selectors of a CSV or YAML file.

    CSV: a header of strategy and conid or selector, and any of account, quantity, priority. YAML: a list of entries
    with strategy, conids, selectors, account, quantity, priority. Everything is checked first; after an error nothing
    is written.
    """
    from v6_pipeline.cli.strategy_file import read_strategies

    rows = read_strategies(file, default_priority=DEFAULT_PRIORITY)
    warnings = _add(home.load(), rows, unchecked=unchecked)
    names = sorted({row.strategy for row in rows})
    content = {"file": file, "rows": len(rows), "strategies": names, "warnings": warnings}
    imported = f"{output.counted(len(rows), 'row')} of {file} imported into {', '.join(names)}"
    _show(content, imported, as_json=as_json)


def _add(settings: Settings, entries: list[StrategyEntry], *, unchecked: bool) -> list[str]:
    """Add all entries in one transaction, unless the broker does not know a conid; return warnings.

    Neighbours that differ by conid only are one change.
    """
    from v6_pipeline.state.account import holdings
    from v6_pipeline.state.registry.registry import StrategyRegistry

    conids = list(dict.fromkeys(conid for entry in entries for conid in entry.conids))
    with home.open_state(settings) as database:
        if conids and not unchecked:
            _check(settings, database, conids)
        with StrategyRegistry(database, timezone=settings.timezone).changes() as changes:
            for first, group in groupby(entries, key=lambda entry: replace(entry, conids=(), selectors=())):
                alike = list(group)
                if together := [conid for entry in alike for conid in entry.conids]:
                    changes.add_active(
                        first.strategy,
                        together,
                        account=first.account,
                        quantity=first.quantity,
                        priority=first.priority,
                    )
                for selector in (selector for entry in alike for selector in entry.selectors):
                    changes.add_selector(first.strategy, selector, first.priority)
        held = holdings.list_open(database)
    return [
        *_not_held(conids, held),
        *_not_matched([selector for entry in entries for selector in entry.selectors], held),
        *_no_such_account([entry.account for entry in entries if entry.conids], held),
    ]


def _check(settings: Settings, database: StateDatabase, conids: list[int]) -> None:
    """Refuse conids that the broker does not know; conids seen before need no gateway."""
    from v6_pipeline.errors import GatewayError, UnknownContractError
    from v6_pipeline.ib.contract_cache import check_contracts

    try:
        asyncio.run(check_contracts(settings, database, conids))
    except UnknownContractError:
        raise
    except GatewayError as error:
        raise GatewayError(f"cannot check the conids ({error}); --unchecked adds them without the check") from error


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
    missing = ", ".join(str(conid) for conid in conids if conid not in known)
    if not missing:
        return []
    if not held:
        return [f"no holdings are known yet ('v6 refresh' fetches them): {missing} will be streamed once held"]
    return [f"no account holds {missing}: streamed once held"]


def _no_such_account(accounts: Collection[str | None], held: Collection[Holding]) -> list[str]:
    """Warn of unknown accounts of entries by conid; a selector of such an account matches no holding, as reported."""
    known = sorted({holding.account for holding in held})
    wanted = dict.fromkeys(account for account in accounts if account is not None)
    return [
        f"account {account} has no known holding: the known accounts are {', '.join(known)}"
        for account in wanted
        if known and account.strip().casefold() not in {name.casefold() for name in known}
    ]


def _show(content: dict[str, Any], line: str, *, as_json: bool) -> None:
    for warning in () if as_json else content["warnings"]:
        output.notice(f"warning: {warning}")
    output.result(content, line, as_json=as_json)
