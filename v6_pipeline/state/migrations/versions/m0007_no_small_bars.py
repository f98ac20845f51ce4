"""Requests for bars of 30 seconds and less are no longer recorded: the product never makes any."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Drop the table. No version has ever written to it, so a process of an older one does not miss it."""
    op.execute("DROP TABLE IF EXISTS small_bar_requests")
