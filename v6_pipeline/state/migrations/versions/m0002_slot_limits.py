"""Additions to the slot ledger: confirmed lines, their priorities, the ceiling learned from error 101, and demands."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Rebuild ``slots`` with its new columns, because SQLite cannot add all of them, and create the two new tables."""
    _rebuild_slots()
    op.create_table(
        "slot_limits",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("learned", sa.Integer),
        _instant("learned_at"),
        sa.Column("reason", sa.Text),
        sa.Column("exhaustions", sa.Integer, nullable=False),
        sa.Column("strikes", sa.Integer, nullable=False),
        _instant("exhausted_at"),
        _instant("retry_at"),
        sa.Column("probes", sa.Integer, nullable=False),
        _instant("probe_at"),
        sa.Column("proven", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_slot_limits"),
    )
    op.create_table(
        "slot_demands",
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("wanted", sa.Integer, nullable=False),
        _instant("since", nullable=False),
        _instant("expires_at", nullable=False),
        sa.PrimaryKeyConstraint("holder", "purpose", name="pk_slot_demands"),
    )


def _instant(name: str, *, nullable: bool = True) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _rebuild_slots() -> None:
    """Lines that a running process holds stay in the ledger, as confirmed ones."""
    connection = op.get_bind()
    old = sa.table(
        "slots",
        sa.column("conid", sa.BigInteger),
        sa.column("holder", sa.Text),
        sa.column("purpose", sa.Text),
        sa.column("acquired_at", sa.DateTime(timezone=True)),
        sa.column("expires_at", sa.DateTime(timezone=True)),
    )
    kept = [dict(row) for row in connection.execute(sa.select(old)).mappings()]
    op.drop_table("slots")
    new = op.create_table(
        "slots",
        sa.Column("conid", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("priority", sa.Integer),
        _instant("acquired_at", nullable=False),
        _instant("expires_at", nullable=False),
        _instant("confirmed_at"),
        _instant("closing_at"),
        sa.PrimaryKeyConstraint("conid", "holder", name="pk_slots"),
    )
    streams = sa.text("purpose = 'stream'")
    op.create_index("uq_slots_stream", "slots", ["conid"], unique=True, sqlite_where=streams, postgresql_where=streams)
    if kept:
        op.bulk_insert(new, [row | {"confirmed_at": row["acquired_at"]} for row in kept])
