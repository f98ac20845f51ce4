"""Pacing of historical requests over all processes, and the closes that they returned."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the tables; each begins empty."""
    op.create_table(
        "historical_pacing",
        sa.Column("gateway", sa.Text, nullable=False),
        sa.Column("configured_rate", sa.Double, nullable=False),
        _instant("next_at", nullable=False),
        sa.Column("slowed_to", sa.Double),
        _instant("slowed_at"),
        sa.Column("slowed_by", sa.Text),
        sa.PrimaryKeyConstraint("gateway", name="pk_historical_pacing"),
    )
    op.create_table(
        "historical_permits",
        sa.Column("gateway", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("permits", sa.Integer, nullable=False),
        _instant("expires_at", nullable=False),
        sa.PrimaryKeyConstraint("gateway", "holder", name="pk_historical_permits"),
    )
    op.create_table(
        "small_bar_requests",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("gateway", sa.Text, nullable=False),
        sa.Column("contract", sa.Text, nullable=False),
        sa.Column("identity", sa.Text, nullable=False),
        sa.Column("cost", sa.Integer, nullable=False),
        _instant("granted_at", nullable=False),
        _instant("left_at"),
        sa.PrimaryKeyConstraint("id", name="pk_small_bar_requests"),
    )
    op.create_index("ix_small_bar_requests_gateway_granted_at", "small_bar_requests", ["gateway", "granted_at"])
    op.create_table(
        "fetched_closes",
        sa.Column("conid", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("close", sa.Double),
        sa.Column("bar_size", sa.Text),
        sa.Column("what_to_show", sa.Text),
        _instant("bar_time"),
        sa.Column("reason", sa.Text),
        _instant("fetched_at", nullable=False),
        sa.PrimaryKeyConstraint("conid", "day", name="pk_fetched_closes"),
    )


def _instant(name: str, *, nullable: bool = True) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)
