"""Alembic's way in: runs on the connection that db/store.py opened, or on -x url=… from the command line."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine

from db.schema import metadata


def upgrade() -> None:
    connection = context.config.attributes.get("connection")
    if connection is not None:
        context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, transactional_ddl=False)
        context.run_migrations()
        return
    with create_engine(context.get_x_argument(as_dictionary=True)["url"]).begin() as own:
        context.configure(connection=own, target_metadata=metadata, render_as_batch=True)
        context.run_migrations()


upgrade()
