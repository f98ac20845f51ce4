"""The tables of the state database, and the types of their columns.

A change here needs a migration in ``migrations/versions`` and its number in ``REVISIONS``; a test compares a migrated
database with this metadata. Only features that both SQLite and PostgreSQL have are used.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Date,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    TypeDecorator,
    insert,
    text,
)

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")
"""Schema revisions known to this version, oldest first; kept here so that a start need not import alembic."""

VERSION_TABLE = "v6_schema_version"
"""Table of the revision; not alembic's usual name, which Dagster uses if it shares the server's database."""

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """An aware instant, stored and returned in UTC; a naive one is refused, since its zone would be a guess.

    SQLite keeps it as text of fixed width, so that comparing texts compares instants.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC; without its zone where the database has no zones."""
        if value is None:
            return None
        if value.tzinfo is None:
            msg = f"naive datetime {value!r}: instants in the state database are aware"
            raise ValueError(msg)
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002  (SQLAlchemy's signature)
        """Convert to an aware instant in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData(naming_convention=NAMING)

_SERIAL = BigInteger().with_variant(Integer(), "sqlite")  # only INTEGER PRIMARY KEY numbers itself in SQLite


def _history() -> list[Column[Any]]:
    """Columns of validity: from inclusive, to exclusive, which is NULL while the row is in force."""
    return [Column("valid_from", UtcDateTime, nullable=False), Column("valid_to", UtcDateTime)]


def _rate() -> list[Column[Any]]:
    """Columns of ``RateState``: the next instant of a gateway, its rate, and the last violation that slowed it."""
    return [
        Column("gateway", Text, primary_key=True),
        Column("configured_rate", Double, nullable=False),
        Column("next_at", UtcDateTime, nullable=False),
        Column("slowed_to", Double),
        Column("slowed_at", UtcDateTime),
        Column("slowed_by", Text),
    ]


def _one_in_force(table: str, *columns: str) -> Index:
    in_force = text("valid_to IS NULL")
    return Index(f"uq_{table}_in_force", *columns, unique=True, sqlite_where=in_force, postgresql_where=in_force)


revisions = Table(
    "revisions",
    metadata,
    Column("name", Text, primary_key=True),
    Column("revision", BigInteger, nullable=False),
)
"""Counters of changes, so that a reader can poll cheaply."""

strategies = Table(
    "strategies",
    metadata,
    Column("id", _SERIAL, primary_key=True),
    Column("strategy", Text, nullable=False),
    *_history(),
    _one_in_force("strategies", "strategy"),
)

memberships = Table(
    "memberships",
    metadata,
    Column("id", _SERIAL, primary_key=True),
    Column("strategy", Text, nullable=False),
    Column("account", Text, nullable=False),  # '' is any: a NULL would escape the unique index
    Column("conid", BigInteger, nullable=False),
    Column("quantity", Double),
    Column("priority", Integer, nullable=False),
    *_history(),
    _one_in_force("memberships", "strategy", "account", "conid"),
)

selectors = Table(
    "selectors",
    metadata,
    Column("id", _SERIAL, primary_key=True),
    Column("strategy", Text, nullable=False),
    Column("selector", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    *_history(),
    _one_in_force("selectors", "strategy", "selector"),
)

contracts = Table(
    "contracts",
    metadata,
    Column("conid", BigInteger, primary_key=True, autoincrement=False),
    Column("symbol", Text, nullable=False),
    Column("sec_type", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("local_symbol", Text, nullable=False),
    Column("trading_class", Text, nullable=False),
    Column("right", Text),
    Column("strike", Double),
    Column("expiry", Date),
    Column("multiplier", Double, nullable=False),
    Column("exchange", Text, nullable=False),
    Column("price_magnifier", Integer, nullable=False),
    Column("underlying_conid", BigInteger),
    Column("qualified_at", UtcDateTime),
)

contract_units = Table(
    "contract_units",
    metadata,
    Column("conid", BigInteger, primary_key=True, autoincrement=False),
    Column("unit_value", Double, nullable=False),
)

contract_failures = Table(
    "contract_failures",
    metadata,
    Column("conid", BigInteger, primary_key=True, autoincrement=False),
    Column("code", Integer, nullable=False),
    Column("failed_at", UtcDateTime, nullable=False),
)

holdings = Table(
    "holdings",
    metadata,
    Column("account", Text, primary_key=True),
    Column("conid", BigInteger, ForeignKey("contracts.conid"), primary_key=True, autoincrement=False),
    Column("position", Double, nullable=False),
    Column("average_cost", Double),
    Column("observed_at", UtcDateTime, nullable=False),
    Column("closed_at", UtcDateTime),
    Column("refreshed_at", UtcDateTime),
    Index("ix_holdings_refreshed_at", "refreshed_at"),
)

queue_items = Table(
    "queue_items",
    metadata,
    Column("account", Text, primary_key=True),
    Column("conid", BigInteger, primary_key=True, autoincrement=False),
    Column("symbol", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("queued_at", UtcDateTime, nullable=False),
    Column("enqueued_at", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("not_before", UtcDateTime),
    Column("token", Text),
    Column("leased_until", UtcDateTime),
    Column("requeued_at", UtcDateTime),
    Column("requeued_priority", Integer),
    Column("last_error", Text),
    Column("dead_at", UtcDateTime),
    Index("ix_queue_items_priority_queued_at", "priority", "queued_at"),
    Index("ix_queue_items_token", "token"),
)

slots = Table(
    "slots",
    metadata,
    Column("conid", BigInteger, primary_key=True, autoincrement=False),
    Column("holder", Text, primary_key=True),
    Column("purpose", Text, nullable=False),
    Column("priority", Integer),
    Column("acquired_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("confirmed_at", UtcDateTime),
    Column("closing_at", UtcDateTime),
    Index(
        "uq_slots_stream",
        "conid",
        unique=True,
        sqlite_where=text("purpose = 'stream'"),
        postgresql_where=text("purpose = 'stream'"),
    ),
)

slot_limits = Table(
    "slot_limits",
    metadata,
    Column("name", Text, primary_key=True),
    Column("learned", Integer),
    Column("learned_at", UtcDateTime),
    Column("reason", Text),
    Column("exhaustions", Integer, nullable=False),
    Column("strikes", Integer, nullable=False),
    Column("exhausted_at", UtcDateTime),
    Column("retry_at", UtcDateTime),
    Column("probes", Integer, nullable=False),
    Column("probe_at", UtcDateTime),
    Column("proven", Integer, nullable=False),
)
"""The limit learned from 101 errors; one row per gateway."""

slot_demands = Table(
    "slot_demands",
    metadata,
    Column("holder", Text, primary_key=True),
    Column("purpose", Text, primary_key=True),
    Column("wanted", Integer, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)
"""Holders that wait for lines."""

message_pacing = Table(
    "message_pacing",
    metadata,
    *_rate(),
    Column("shares_until", UtcDateTime),
)
"""Allowance of messages to a gateway: one row for all processes."""

request_rates = Table(
    "request_rates",
    metadata,
    Column("name", Text, primary_key=True),
    Column("sent_at", JSON, nullable=False),
    Column("paused_until", UtcDateTime),
)
"""Last requests to a rate-limited service, of all processes: epoch microseconds, oldest first, as many as count."""

historical_pacing = Table(
    "historical_pacing",
    metadata,
    *_rate(),
)
"""Allowance of historical requests to a gateway: one row for all processes."""

historical_permits = Table(
    "historical_permits",
    metadata,
    Column("gateway", Text, primary_key=True),
    Column("holder", Text, primary_key=True),
    Column("permits", Integer, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)
"""Number of historical requests that each process may have open."""

fetched_closes = Table(
    "fetched_closes",
    metadata,
    Column("conid", BigInteger, primary_key=True, autoincrement=False),
    Column("day", Date, primary_key=True),
    Column("close", Double),
    Column("bar_size", Text),
    Column("what_to_show", Text),
    Column("bar_time", UtcDateTime),
    Column("reason", Text),
    Column("fetched_at", UtcDateTime, nullable=False),
)
"""IB's answers to requests for a contract's close on a trading day."""

account_downloads = Table(
    "account_downloads",
    metadata,
    Column("account", Text, primary_key=True),
    Column("completed_at", UtcDateTime),
    Column("failed_at", UtcDateTime),
    Column("failures", Integer, nullable=False),
    Column("reason", Text),
)
"""Last download of each account, and its failures in a row since."""

slot_samples = Table(
    "slot_samples",
    metadata,
    Column("at", UtcDateTime, primary_key=True),
    Column("streams", Integer, nullable=False),
    Column("batches", Integer, nullable=False),
    Column("ceiling", Integer, nullable=False),
)
"""Lines in use: one sample a minute, kept for some days."""

named_leases = Table(
    "named_leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("owner", Text),
    Column("acquired_at", UtcDateTime),
    Column("expires_at", UtcDateTime),
)

streamer_lease = Table(
    "streamer_lease",
    metadata,
    Column("name", Text, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("owner", Text),
    Column("host", Text),
    Column("pid", Integer),
    Column("pid_started_at", UtcDateTime),
    Column("claimed_at", UtcDateTime),
    Column("expires_at", UtcDateTime),
    Column("granted_by", Text),
    Column("desired_state", Text, nullable=False),
    Column("heartbeat_at", UtcDateTime),
    Column("status", JSON, nullable=False),
)

client_ids = Table(
    "client_ids",
    metadata,
    Column("client_id", BigInteger, primary_key=True, autoincrement=False),
    Column("owner", Text),
    Column("expires_at", UtcDateTime),
    Column("busy_until", UtcDateTime),
)

fx_rates = Table(
    "fx_rates",
    metadata,
    Column("account", Text, primary_key=True),
    Column("currency", Text, primary_key=True),
    Column("base_currency", Text, primary_key=True),
    Column("rate", Double, nullable=False),
    Column("observed_at", UtcDateTime, nullable=False),
)

_versions = Table(
    VERSION_TABLE,
    MetaData(),  # alembic's, and not to be compared with migrations
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),
)


def create(connection: Connection) -> None:
    """Create every table in an empty database, as all migrations would, without the time that alembic takes."""
    metadata.create_all(connection)
    _versions.create(connection)
    connection.execute(insert(_versions).values(version_num=REVISIONS[-1]))
