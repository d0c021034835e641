"""What Alembic runs: on the connection it is handed, in the transaction that is open there."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], version_table="deltamem_version")
context.run_migrations()
