"""The contract cache: the broker's definitions of contracts, and the conids that it does not know or serve.

Position messages carry some of the facts (no exchange, often no magnifier); contract details carry all, and only newer
details replace them. But the names of what an account holds come from its newest position message, as a corporate
action changes the symbol and keeps the conid; and the value of a unit from its newest account download.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, delete, select

from v6_pipeline.model import ContractSpec, SecType
from v6_pipeline.state import revisions
from v6_pipeline.state.database import reads, writes
from v6_pipeline.state.keys import chunks
from v6_pipeline.state.schema import contract_failures, contract_units, contracts, holdings
from v6_pipeline.state.upsert import Row, upsert

UNKNOWN = 200
"""The broker's error code for a contract without definition."""
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
"""Time of details that are due to be fetched again."""
_FACTS = [field.name for field in fields(ContractSpec) if field.name != "unit_value"]


WITH_UNITS = contracts.outerjoin(contract_units, contract_units.c.conid == contracts.c.conid)
"""Contracts and what was learned of their units."""
OF_CONTRACT = (*contracts.c, contract_units.c.unit_value)
"""Columns that ``spec_of`` reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedContract:
    """A contract and the time of its details; ``None`` while it is known from positions only."""

    spec: ContractSpec
    qualified_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractFailure:
    """The broker's error code for a request about a contract."""

    conid: int
    code: int
    failed_at: datetime


def spec_of(row: Any) -> ContractSpec:  # noqa: ANN401  (a row of any select that holds the contract's columns)
    """Build the contract from a row of a select of ``WITH_UNITS``'s columns."""
    facts = {name: getattr(row, name) for name in (*_FACTS, "unit_value")}
    return ContractSpec(**facts | {"sec_type": SecType.parse(row.sec_type)})


def remember(connection: Connection, specs: Iterable[ContractSpec]) -> None:
    """Store the facts that position messages carry.

    Of a contract whose details were fetched, only names and multiplier are changed; with another symbol or multiplier
    its details are due to be fetched again.
    """
    rows = {spec.conid: spec for spec in specs}
    known = get(connection, rows)
    _put(connection, [_remembered(spec, known.get(conid)) for conid, spec in rows.items()], known)


@writes
def save(connection: Connection, specs: Iterable[ContractSpec], *, qualified_at: datetime) -> None:
    """Store contract details, and delete the failures of these contracts."""
    given = {spec.conid: spec for spec in specs}
    known = get(connection, given)
    held = _held(connection, given)
    rows = [
        _row(_named(spec, known[conid].spec) if conid in held and conid in known else spec, qualified_at)
        for conid, spec in given.items()
    ]
    _put(connection, rows, known)
    for chunk in chunks(row["conid"] for row in rows):
        connection.execute(delete(contract_failures).where(contract_failures.c.conid.in_(chunk)))


@reads
def get(connection: Connection, conids: Iterable[int]) -> dict[int, CachedContract]:
    """Find contracts in the cache, by conid."""
    found: dict[int, CachedContract] = {}
    for chunk in chunks(set(conids)):
        for row in connection.execute(select(*OF_CONTRACT).select_from(WITH_UNITS).where(contracts.c.conid.in_(chunk))):
            found[row.conid] = CachedContract(spec=spec_of(row), qualified_at=row.qualified_at)
    return found


@writes
def mark_unknown(connection: Connection, conid: int, *, failed_at: datetime) -> None:
    """Record that the broker does not know a conid, so that it is not requested again at once."""
    upsert(connection, contract_failures, [{"conid": conid, "code": UNKNOWN, "failed_at": failed_at}])


@writes
def save_answers(
    connection: Connection, specs: Iterable[ContractSpec], unknown: Iterable[int], *, answered_at: datetime
) -> None:
    """Store the broker's answers to requests for details: ``save`` and ``mark_unknown`` in one transaction."""
    save(connection, specs, qualified_at=answered_at)
    for conid in unknown:
        mark_unknown(connection, conid, failed_at=answered_at)


@reads
def failures(connection: Connection) -> dict[int, ContractFailure]:
    """List the conids that the broker did not know."""
    return {
        row.conid: ContractFailure(conid=row.conid, code=row.code, failed_at=row.failed_at)
        for row in connection.execute(select(contract_failures).where(contract_failures.c.code == UNKNOWN))
    }


@writes
def mark_refused(connection: Connection, codes: Mapping[int, int], *, failed_at: datetime) -> None:
    """Record that the broker refuses market data for contracts; ``codes`` are its errors by conid."""
    rows: list[Row] = [{"conid": conid, "code": code, "failed_at": failed_at} for conid, code in codes.items()]
    upsert(connection, contract_failures, rows)


@reads
def refused(connection: Connection, *, since: datetime) -> frozenset[int]:
    """List the contracts that the broker did not know, or refused market data for, after ``since``."""
    return frozenset(connection.scalars(select(contract_failures.c.conid).where(contract_failures.c.failed_at > since)))


@writes
def forget_refused(connection: Connection) -> None:
    """Delete the refusals of market data, so that it is requested again for every contract that the broker knows."""
    connection.execute(delete(contract_failures).where(contract_failures.c.code != UNKNOWN))


@writes
def learn_units(connection: Connection, units: Mapping[int, float | None]) -> None:
    """Store the value of one unit of position at a price of 1, by conid; None where the multiplier alone gives it."""
    known = {conid: cached.spec.unit_value for conid, cached in get(connection, units).items()}
    changed = {conid: units[conid] for conid, unit in known.items() if unit != units[conid]}
    if not changed:
        return
    for chunk in chunks(changed):
        connection.execute(delete(contract_units).where(contract_units.c.conid.in_(chunk)))
    rows: list[Row] = [{"conid": conid, "unit_value": unit} for conid, unit in changed.items() if unit is not None]
    upsert(connection, contract_units, rows)
    revisions.bump(connection, revisions.Revision.HOLDINGS)


def _remembered(spec: ContractSpec, cached: CachedContract | None) -> Row:
    """Return the row for a contract as a position message describes it."""
    if cached is None or cached.qualified_at is None:
        return _row(spec, None)
    old = cached.spec
    new = _named(old, spec)
    is_changed = (new.symbol, new.multiplier) != (old.symbol, old.multiplier)
    return _row(new, _LONG_AGO if is_changed else cached.qualified_at)


def _named(spec: ContractSpec, by: ContractSpec) -> ContractSpec:
    """Return ``spec`` with the names and the multiplier of ``by``, where that has them."""
    return replace(
        spec,
        symbol=by.symbol or spec.symbol,
        local_symbol=by.local_symbol or spec.local_symbol,
        trading_class=by.trading_class or spec.trading_class,
        multiplier=by.multiplier if by.multiplier != 1 else spec.multiplier,
    )


def _held(connection: Connection, conids: Iterable[int]) -> frozenset[int]:
    """Return those of ``conids`` that an account holds: position messages name them."""
    found: set[int] = set()
    for chunk in chunks(set(conids)):
        open_ones = select(holdings.c.conid).where(holdings.c.conid.in_(chunk), holdings.c.closed_at.is_(None))
        found |= set(connection.scalars(open_ones))
    return frozenset(found)


def _row(spec: ContractSpec, qualified_at: datetime | None) -> Row:
    facts = {name: getattr(spec, name) for name in _FACTS}
    return facts | {"sec_type": spec.sec_type.value, "qualified_at": qualified_at}


def _put(connection: Connection, rows: list[Row], known: Mapping[int, CachedContract]) -> None:
    """Write rows that are new or differ from ``known``; the revision changes only if some fact does."""
    changed = [row for row in rows if _stored(known.get(row["conid"])) != row]
    upsert(connection, contracts, changed)
    if any(_facts(row) != _facts(_stored(known.get(row["conid"]))) for row in changed):
        revisions.bump(connection, revisions.Revision.HOLDINGS)


def _stored(cached: CachedContract | None) -> Row:
    return {} if cached is None else _row(cached.spec, cached.qualified_at)


def _facts(row: Row) -> Row:
    return dict(row) | {"qualified_at": None}
