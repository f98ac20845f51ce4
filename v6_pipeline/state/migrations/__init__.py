"""Migrations of the state database: alembic, run from within the program by ``StateDatabase.open``.

A new one goes into ``versions`` as ``m0002_….py`` with ``revision = "0002"``, and into ``schema.REVISIONS``. A released
migration never changes, so it spells its tables out instead of using ``schema``.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection


def upgrade(connection: Connection) -> None:
    """Bring the database to the newest revision within the caller's transaction, which must be the only writer."""
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    command.upgrade(config, "head")
