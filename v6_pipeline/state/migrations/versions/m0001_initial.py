"""All tables of the first version."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the tables."""
    _create_registry()
    _create_contracts()
    _create_queue()
    _create_slots()
    _create_leases()


def _instant(name: str, *, nullable: bool = True) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _one_in_force(table: str, *columns: str) -> None:
    in_force = sa.text("valid_to IS NULL")
    op.create_index(
        f"uq_{table}_in_force", table, columns, unique=True, sqlite_where=in_force, postgresql_where=in_force
    )


def _create_registry() -> None:
    op.create_table(
        "revisions",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_revisions"),
    )
    op.create_table(
        "strategies",
        sa.Column("id", _SERIAL, nullable=False),
        sa.Column("strategy", sa.Text, nullable=False),
        _instant("valid_from", nullable=False),
        _instant("valid_to"),
        sa.PrimaryKeyConstraint("id", name="pk_strategies"),
    )
    _one_in_force("strategies", "strategy")
    op.create_table(
        "memberships",
        sa.Column("id", _SERIAL, nullable=False),
        sa.Column("strategy", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("conid", sa.BigInteger, nullable=False),
        sa.Column("quantity", sa.Double),
        sa.Column("priority", sa.Integer, nullable=False),
        _instant("valid_from", nullable=False),
        _instant("valid_to"),
        sa.PrimaryKeyConstraint("id", name="pk_memberships"),
    )
    _one_in_force("memberships", "strategy", "account", "conid")
    op.create_table(
        "selectors",
        sa.Column("id", _SERIAL, nullable=False),
        sa.Column("strategy", sa.Text, nullable=False),
        sa.Column("selector", sa.Text, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        _instant("valid_from", nullable=False),
        _instant("valid_to"),
        sa.PrimaryKeyConstraint("id", name="pk_selectors"),
    )
    _one_in_force("selectors", "strategy", "selector")


def _create_contracts() -> None:
    op.create_table(
        "contracts",
        sa.Column("conid", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("symbol", sa.Text, nullable=False),
        sa.Column("sec_type", sa.Text, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("local_symbol", sa.Text, nullable=False),
        sa.Column("trading_class", sa.Text, nullable=False),
        sa.Column("right", sa.Text),
        sa.Column("strike", sa.Double),
        sa.Column("expiry", sa.Date),
        sa.Column("multiplier", sa.Double, nullable=False),
        sa.Column("exchange", sa.Text, nullable=False),
        sa.Column("price_magnifier", sa.Integer, nullable=False),
        sa.Column("underlying_conid", sa.BigInteger),
        _instant("qualified_at"),
        sa.PrimaryKeyConstraint("conid", name="pk_contracts"),
    )
    op.create_table(
        "contract_failures",
        sa.Column("conid", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("code", sa.Integer, nullable=False),
        _instant("failed_at", nullable=False),
        sa.PrimaryKeyConstraint("conid", name="pk_contract_failures"),
    )
    op.create_table(
        "holdings",
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("conid", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("position", sa.Double, nullable=False),
        sa.Column("average_cost", sa.Double),
        _instant("observed_at", nullable=False),
        _instant("closed_at"),
        _instant("refreshed_at"),
        sa.PrimaryKeyConstraint("account", "conid", name="pk_holdings"),
        sa.ForeignKeyConstraint(["conid"], ["contracts.conid"], name="fk_holdings_conid_contracts"),
    )
    op.create_index("ix_holdings_refreshed_at", "holdings", ["refreshed_at"])
    op.create_table(
        "fx_rates",
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("base_currency", sa.Text, nullable=False),
        sa.Column("rate", sa.Double, nullable=False),
        _instant("observed_at", nullable=False),
        sa.PrimaryKeyConstraint("account", "currency", "base_currency", name="pk_fx_rates"),
    )


def _create_queue() -> None:
    op.create_table(
        "queue_items",
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("conid", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("symbol", sa.Text, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        _instant("queued_at", nullable=False),
        _instant("enqueued_at", nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        _instant("not_before"),
        sa.Column("token", sa.Text),
        _instant("leased_until"),
        _instant("requeued_at"),
        sa.Column("requeued_priority", sa.Integer),
        sa.Column("last_error", sa.Text),
        _instant("dead_at"),
        sa.PrimaryKeyConstraint("account", "conid", name="pk_queue_items"),
    )
    op.create_index("ix_queue_items_priority_queued_at", "queue_items", ["priority", "queued_at"])
    op.create_index("ix_queue_items_token", "queue_items", ["token"])


def _create_slots() -> None:
    op.create_table(
        "slots",
        sa.Column("conid", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        _instant("acquired_at", nullable=False),
        _instant("expires_at", nullable=False),
        sa.PrimaryKeyConstraint("conid", "holder", name="pk_slots"),
    )
    streams = sa.text("purpose = 'stream'")
    op.create_index("uq_slots_stream", "slots", ["conid"], unique=True, sqlite_where=streams, postgresql_where=streams)


def _create_leases() -> None:
    op.create_table(
        "named_leases",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.Text),
        _instant("acquired_at"),
        _instant("expires_at"),
        sa.PrimaryKeyConstraint("name", name="pk_named_leases"),
    )
    op.create_table(
        "streamer_lease",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("host", sa.Text),
        sa.Column("pid", sa.Integer),
        _instant("pid_started_at"),
        _instant("claimed_at"),
        _instant("expires_at"),
        sa.Column("granted_by", sa.Text),
        sa.Column("desired_state", sa.Text, nullable=False),
        _instant("heartbeat_at"),
        sa.Column("status", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_streamer_lease"),
    )
    op.create_table(
        "client_ids",
        sa.Column("client_id", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("owner", sa.Text),
        _instant("expires_at"),
        _instant("busy_until"),
        sa.PrimaryKeyConstraint("client_id", name="pk_client_ids"),
    )
