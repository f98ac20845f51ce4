"""One message allowance per gateway, for all processes together."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the table; the first process that connects writes its row."""
    op.create_table(
        "message_pacing",
        sa.Column("gateway", sa.Text, nullable=False),
        sa.Column("configured_rate", sa.Double, nullable=False),
        _instant("next_at", nullable=False),
        sa.Column("slowed_to", sa.Double),
        _instant("slowed_at"),
        sa.Column("slowed_by", sa.Text),
        _instant("shares_until"),
        sa.PrimaryKeyConstraint("gateway", name="pk_message_pacing"),
    )


def _instant(name: str, *, nullable: bool = True) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)
