"""Whether a message is folded into the state is stored with it.

Revision ID: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Every message that is there was folded, results of tools too, and stays so."""
    op.add_column("deltamem_messages", sa.Column("folded", sa.Boolean, nullable=False, server_default=sa.true()))
    if op.get_context().dialect.name == "postgresql":  # SQLite drops no default; nothing relies on it
        op.alter_column("deltamem_messages", "folded", server_default=None)
