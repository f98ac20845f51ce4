"""``v6 queue``: what waits to be refreshed, dead letters included."""

from __future__ import annotations

from typing import Annotated

import typer

from v6_pipeline.cli import home, output
from v6_pipeline.cli.options import Key, parse_keys
from v6_pipeline.cli.output import JsonOption
from v6_pipeline.errors import UsageError

app = typer.Typer(help="Show and mend the queue of holdings to be refreshed.", no_args_is_help=True)

_FAILED = 1

KeysArgument = Annotated[list[str] | None, typer.Argument(metavar="[ACCOUNT:CONID]...", show_default=False)]


@app.command("stats")
def stats(*, as_json: JsonOption = False) -> None:
    """Count the items by state and priority."""
    settings = home.load()
    from v6_pipeline.state.queue.queue import PositionQueue

    with home.open_state(settings, must_exist=True) as database:
        found = PositionQueue(database).stats()
    if as_json:
        output.document(
            {
                "open": found.open,
                "leased": found.leased,
                "waiting": found.waiting,
                "dead": found.dead,
                "pending": found.pending,
                "oldest_age_seconds": found.oldest_age_seconds,
                "by_priority": found.by_priority,
            }
        )
        return
    output.table(
        ("open", "leased", "waiting", "dead", "oldest"),
        [(found.open, found.leased, found.waiting, found.dead, output.duration(found.oldest_age_seconds))],
        numbers=("open", "leased", "waiting", "dead", "oldest"),
    )
    for priority, count in found.by_priority.items():
        output.line(f"priority {priority}: {count}")
    if found.dead:
        output.notice("'v6 queue list --state dead' says why items died; 'v6 queue retry --all' tries them again")


@app.command("list")
def list_items(
    *,
    state: Annotated[str | None, typer.Option(help="Only open, leased, waiting or dead ones.")] = None,
    limit: Annotated[int | None, typer.Option(help="Show that many at most.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """List the items in the order in which they are served."""
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit} is not 1 or more")
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
        output.notice("the queue is empty" if wanted is None else f"no item of the queue is {wanted}")
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
    """Put dead letters back into the queue, all or those named; exit code 1 if none of those named is one."""
    if bool(keys) == everything:
        raise UsageError("name dead letters as ACCOUNT:CONID, or give --all")
    wanted = None if everything else parse_keys(keys or ())
    settings = home.load()
    from v6_pipeline.state.queue.items import QueueState
    from v6_pipeline.state.queue.queue import PositionQueue

    with home.open_state(settings, must_exist=True) as database:
        queue = PositionQueue(database)
        dead = {item.key for item in queue.items(QueueState.DEAD)}
        missing = [key for key in wanted or () if key not in dead]
        retried = queue.retry(wanted)
    if as_json:
        output.document({"retried": retried, "not_dead": _texts(missing)})
    else:
        said = f"{output.counted(retried, 'dead letter')} put back: the next refresh takes them"
        _tell(retried, said, missing, "dead letter")
    return _exit_code(retried, missing)


@app.command("purge")
def purge(
    keys: KeysArgument = None,
    *,
    state: Annotated[str, typer.Option(help="Delete the items that are dead, open or waiting.")] = "dead",
    as_json: JsonOption = False,
) -> int:
    """Delete items, by default all dead letters; exit code 1 if none of those named is in that state.

    Holdings that are due are queued again.
    """
    wanted = parse_keys(keys) if keys else None
    settings = home.load()
    from v6_pipeline.state.queue.items import QueueState
    from v6_pipeline.state.queue.queue import PositionQueue

    if state == QueueState.LEASED:
        raise UsageError("leased items cannot be purged, a worker is about to acknowledge them: wait for the lease")
    if state not in set(QueueState):
        raise UsageError(f"--state {state} is none of dead, open, waiting")
    with home.open_state(settings, must_exist=True) as database:
        queue = PositionQueue(database)
        there = {item.key for item in queue.items(QueueState(state))}
        missing = [key for key in wanted or () if key not in there]
        purged = queue.purge(QueueState(state), keys=wanted)
    if as_json:
        output.document({"purged": purged, "state": state, "missing": _texts(missing)})
    else:
        _tell(purged, f"{output.counted(purged, f'{state} item')} deleted", missing, f"{state} item")
    return _exit_code(purged, missing)


def _exit_code(done: int, missing: list[Key]) -> int:
    return _FAILED if missing and not done else 0


def _tell(done: int, said: str, missing: list[Key], kind: str) -> None:
    """Which of the items that were named are not of that kind; what was done, unless they all are not."""
    for key in _texts(missing):
        output.notice(f"{key} is no {kind}")
    if _exit_code(done, missing) == 0:
        output.line(said)


def _texts(keys: list[Key]) -> list[str]:
    return [f"{account}:{conid}" for account, conid in keys]
