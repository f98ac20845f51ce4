"""Times of the requests to rate-limited web services, for all processes together."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the table; the first request writes its row."""
    op.create_table(
        "request_rates",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("sent_at", sa.JSON, nullable=False),
        sa.Column("paused_until", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("name", name="pk_request_rates"),
    )
