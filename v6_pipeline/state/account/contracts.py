"""The contract cache: the broker's definitions of contracts, and the conids that it does not know or serve.

Position messages carry some of the facts (no exchange, often no magnifier); contract details carry all, and only newer
details replace them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, select

from v6_pipeline.model import ContractSpec, SecType
from v6_pipeline.state import revisions
from v6_pipeline.state.database import reads, writes
from v6_pipeline.state.keys import chunks
from v6_pipeline.state.schema import contract_failures, contracts
from v6_pipeline.state.upsert import Row, upsert

UNKNOWN = 200
"""The broker's error code for a contract without definition."""
_FACTS = [field.name for field in fields(ContractSpec)]


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
    """Build the contract from a row that has the columns of ``contracts``."""
    return ContractSpec(**{name: getattr(row, name) for name in _FACTS} | {"sec_type": SecType.parse(row.sec_type)})


def remember(connection: Connection, specs: Iterable[ContractSpec]) -> None:
    """Store the facts that position messages carry; a contract whose details were fetched is not changed."""
    _put(connection, [_row(spec, None) for spec in specs], replace_qualified=False)


@writes
def save(connection: Connection, specs: Iterable[ContractSpec], *, qualified_at: datetime) -> None:
    """Store contract details, and delete the failures of these contracts."""
    rows = [_row(spec, qualified_at) for spec in specs]
    _put(connection, rows, replace_qualified=True)
    for chunk in chunks(row["conid"] for row in rows):
        connection.execute(delete(contract_failures).where(contract_failures.c.conid.in_(chunk)))


@reads
def get(connection: Connection, conids: Iterable[int]) -> dict[int, CachedContract]:
    """Find contracts in the cache, by conid."""
    found: dict[int, CachedContract] = {}
    for chunk in chunks(set(conids)):
        for row in connection.execute(select(contracts).where(contracts.c.conid.in_(chunk))):
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


def _row(spec: ContractSpec, qualified_at: datetime | None) -> Row:
    return asdict(spec) | {"sec_type": spec.sec_type.value, "qualified_at": qualified_at}


def _put(connection: Connection, rows: list[Row], *, replace_qualified: bool) -> None:
    """Write rows that are new or differ; the revision changes only if there are any."""
    rows = list({row["conid"]: row for row in rows}.values())
    known = get(connection, [row["conid"] for row in rows])
    changed = []
    for row in rows:
        old = known.get(row["conid"])
        if old is not None and old.qualified_at is not None and not replace_qualified:
            continue
        if old is None or _row(old.spec, old.qualified_at) != row:
            changed.append(row)
    upsert(connection, contracts, changed)
    if any(row["conid"] not in known or _facts(row) != _row(known[row["conid"]].spec, None) for row in changed):
        revisions.bump(connection, revisions.Revision.HOLDINGS)


def _facts(row: Row) -> Row:
    return dict(row) | {"qualified_at": None}
