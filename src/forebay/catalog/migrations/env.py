"""Alembic's entry: runs the migrations on the connection that `forebay.catalog.migrate` hands over."""

from alembic import context

from forebay.catalog.schema import metadata

connection = context.config.attributes["connection"]
# The caller owns the transaction, so that a migration is all or nothing.
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=False, render_as_batch=True)
context.run_migrations()
