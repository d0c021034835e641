"""Alembic's entry point: runs the migrations on the connection it is given, in that connection's open transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], version_table="deltamem_version")
context.run_migrations()
