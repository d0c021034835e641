"""Access tokens of a server, and the answers it gave to requests with an idempotency key.

Revision ID: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the two tables; a database that no server used has no rows in them."""
    op.create_table(
        "deltamem_tokens",
        sa.Column("key", KEY, primary_key=True),
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False, unique=True),
        sa.Column("agents", sa.JSON, nullable=False),
        sa.Column("scope", sa.String(16), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME),
        sa.Column("parent", KEY, sa.ForeignKey("deltamem_tokens.key", ondelete="CASCADE")),
        sqlite_autoincrement=True,
    )
    op.create_index("deltamem_tokens_name", "deltamem_tokens", ["name"], unique=True)
    op.create_table(
        "deltamem_requests",
        sa.Column("key", KEY, primary_key=True),
        sa.Column("caller", sa.String(32), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("answer", sa.Text),
        sa.Column("created_at", TIME, nullable=False),
        sa.UniqueConstraint("caller", "name"),
        sqlite_autoincrement=True,
    )
