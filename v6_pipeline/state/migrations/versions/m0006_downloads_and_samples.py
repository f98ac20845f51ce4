"""Results of account downloads, and samples of the lines in use."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the tables; each begins empty."""
    op.create_table(
        "account_downloads",
        sa.Column("account", sa.Text, nullable=False),
        _instant("completed_at"),
        _instant("failed_at"),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text),
        sa.PrimaryKeyConstraint("account", name="pk_account_downloads"),
    )
    op.create_table(
        "slot_samples",
        _instant("at", nullable=False),
        sa.Column("streams", sa.Integer, nullable=False),
        sa.Column("batches", sa.Integer, nullable=False),
        sa.Column("ceiling", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("at", name="pk_slot_samples"),
    )


def _instant(name: str, *, nullable: bool = True) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)
