"""Erased messages may leave keyed hashes, by which a client that sends its history again is known.

Revision ID: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the table and the column of the agents' keys; what was erased before leaves nothing."""
    op.add_column("deltamem_agents", sa.Column("tombstone_key", sa.LargeBinary))
    op.create_table(
        "deltamem_tombstones",
        sa.Column("key", KEY, primary_key=True),
        sa.Column("agent_key", KEY, sa.ForeignKey("deltamem_agents.key", ondelete="CASCADE"), nullable=False),
        sa.Column("place", sa.BigInteger, nullable=False),
        sa.Column("session", sa.LargeBinary, nullable=False),
        sa.Column("message", sa.LargeBinary, nullable=False),
        sa.Column("said", sa.LargeBinary, nullable=False),
    )
    op.create_index("deltamem_tombstones_session", "deltamem_tombstones", ["agent_key", "session"])
