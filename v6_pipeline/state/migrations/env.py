"""Alembic's entry: runs the migrations on the connection that ``upgrade`` hands over."""

from alembic import context

from v6_pipeline.state.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    # The caller's transaction holds the lock against other processes; alembic must not end it.
    transactional_ddl=False,
)
context.run_migrations()
