"""What one unit of a position is worth at a price of 1, by contract, learned from IB's own figures."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Create the table; it begins empty, and the next account download fills it."""
    op.create_table(
        "contract_units",
        sa.Column("conid", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("unit_value", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("conid", name="pk_contract_units"),
    )
