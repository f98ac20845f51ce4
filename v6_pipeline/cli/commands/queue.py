"""``v6 queue``: the holdings that wait to be refreshed, including dead letters."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from v6_pipeline.cli import FAILED, home, output
from v6_pipeline.cli.options import Key, parse_key
from v6_pipeline.cli.output import JsonOption
from v6_pipeline.errors import UsageError

app = typer.Typer(help="Show and repair the queue of holdings to be refreshed.", no_args_is_help=True)

KeysArgument = Annotated[list[str] | None, typer.Argument(metavar="[ACCOUNT:CONID]...", show_default=False)]


@app.command("stats")
def stats(*, as_json: JsonOption = False) -> None:
    """Count the items by state and priority."""
    settings = home.load()
    from v6_pipeline.state.queue.queue import PositionQueue

    with home.open_state(settings, must_exist=True) as database:
        found = PositionQueue(database).stats()
    if as_json:
        output.document({**asdict(found), "pending": found.pending})
        return
    columns = ("open", "leased", "waiting", "dead", "oldest")
    row = (found.open, found.leased, found.waiting, found.dead, output.duration(found.oldest_age_seconds))
    output.table(columns, [row], numbers=columns)
    for priority, count in found.by_priority.items():
        output.line(f"priority {priority}: {count}")
    if found.dead:
        output.notice("'v6 queue list --state dead' shows why items died; 'v6 queue retry --all' tries them again")


@app.command("list")
def list_items(
    *,
    state: Annotated[str | None, typer.Option(help="Only open, leased, waiting or dead ones.")] = None,
    limit: Annotated[int | None, typer.Option(help="Maximum number to show.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """List the items in the order in which they are served."""
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit} is less than 1")
    settings = home.load()
    from v6_pipeline.state.queue.items import QueueState
    from v6_pipeline.state.queue.queue import PositionQueue

    if state is not None and state not in set(QueueState):
        raise UsageError(f"--state {state} is none of {', '.join(QueueState)}")
    wanted = None if state is None else QueueState(state)
    with home.open_state(settings, must_exist=True) as database:
        items = PositionQueue(database).items(wanted, limit=limit)
    if as_json:
        output.document({"items": items})
        return
    if not items:
        output.notice("the queue is empty" if wanted is None else f"the queue has no {wanted} item")
        return
    output.table(
        ("account", "conid", "symbol", "state", "priority", "attempts", "queued at", "not before", "last error"),
        (
            (
                item.account,
                item.conid,
                item.symbol,
                item.state,
                item.priority,
                item.attempts,
                f"{item.queued_at:%Y-%m-%d %H:%M:%S}Z",
                "" if item.not_before is None else f"{item.not_before:%H:%M:%S}Z",
                item.last_error,
            )
            for item in items
        ),
        numbers=("conid", "priority", "attempts"),
    )


@app.command("retry")
def retry(
    keys: KeysArgument = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Return dead letters to the queue, all or the named ones; exit code 1 if none of the named items is one."""
    if bool(keys) == everything:
        raise UsageError("name dead letters as ACCOUNT:CONID, or give --all")
    wanted = None if everything else [parse_key(key) for key in keys or ()]
    settings = home.load()
    from v6_pipeline.state.queue.items import QueueState
    from v6_pipeline.state.queue.queue import PositionQueue

    with home.open_state(settings, must_exist=True) as database:
        queue = PositionQueue(database)
        dead = {item.key for item in queue.items(QueueState.DEAD)}
        missing = [key for key in wanted or () if key not in dead]
        retried = queue.retry(wanted)
    content: dict[str, object] = {"retried": retried, "not_dead": _texts(missing)}
    result = f"{output.counted(retried, 'dead letter')} returned to the queue for the next refresh"
    return _report(content, retried, result, missing, "dead letter", as_json=as_json)


@app.command("purge")
def purge(
    keys: KeysArgument = None,
    *,
    state: Annotated[str, typer.Option(help="Delete the items that are dead, open or waiting.")] = "dead",
    as_json: JsonOption = False,
) -> int:
    """Delete items, by default all dead letters; exit code 1 if none of the named items is in that state.

    Holdings that are due are queued again.
    """
    wanted = [parse_key(key) for key in keys] if keys else None
    settings = home.load()
    from v6_pipeline.state.queue.items import QueueState
    from v6_pipeline.state.queue.queue import PositionQueue

    if state == QueueState.LEASED:
        raise UsageError("leased items cannot be purged, because a worker has them: wait until the lease ends")
    if state not in set(QueueState):
        raise UsageError(f"--state {state} is none of dead, open, waiting")
    with home.open_state(settings, must_exist=True) as database:
        queue = PositionQueue(database)
        there = {item.key for item in queue.items(QueueState(state))}
        missing = [key for key in wanted or () if key not in there]
        purged = queue.purge(QueueState(state), keys=wanted)
    content: dict[str, object] = {"purged": purged, "state": state, "missing": _texts(missing)}
    result = f"{output.counted(purged, f'{state} item')} deleted"
    return _report(content, purged, result, missing, f"{state} item", as_json=as_json)


def _report(content: dict[str, object], done: int, result: str, missing: list[Key], kind: str, *, as_json: bool) -> int:
    """Print the result and the named items that are not of that kind; return the exit code."""
    failed = bool(missing) and not done
    for key in () if as_json else _texts(missing):
        output.notice(f"{key} is not a {kind}")
    if as_json or not failed:
        output.result(content, result, as_json=as_json)
    return FAILED if failed else 0


def _texts(keys: list[Key]) -> list[str]:
    return [f"{account}:{conid}" for account, conid in keys]
