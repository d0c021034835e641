"""Message ids are unique within their session; every agent has a secret key of its own.

Revision ID: 0004
"""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

SECRET_BYTES = 32
LIVE = sa.text("left_at IS NULL")

AGENTS = sa.table(
    "deltamem_agents",
    sa.column("key", sa.BigInteger),
    sa.column("head", sa.BigInteger),
    sa.column("secret", sa.LargeBinary),
    sa.column("agent_ids_until", sa.BigInteger),
)
MESSAGES = sa.table("deltamem_messages", sa.column("agent_key"), sa.column("id"), sa.column("session"))


def upgrade() -> None:
    """Change the index, give every agent a key, and note whose messages were replaced across sessions."""
    op.drop_index("deltamem_messages_live_id", table_name="deltamem_messages")
    op.create_index(
        "deltamem_messages_live_id",
        "deltamem_messages",
        ["agent_key", "session", "id"],
        unique=True,
        sqlite_where=LIVE,
        postgresql_where=LIVE,
    )
    # SQLite adds no column that must have a value without a default; nothing else ever uses it.
    empty = sa.text("x''" if op.get_context().dialect.name == "sqlite" else "''::bytea")
    op.add_column("deltamem_agents", sa.Column("secret", sa.LargeBinary, nullable=False, server_default=empty))
    op.add_column("deltamem_agents", sa.Column("agent_ids_until", sa.BigInteger))
    connection = op.get_bind()
    given = [
        {"of": key, "made": secrets.token_bytes(SECRET_BYTES)} for key in connection.scalars(sa.select(AGENTS.c.key))
    ]
    if given:
        one = sa.update(AGENTS).where(AGENTS.c.key == sa.bindparam("of")).values(secret=sa.bindparam("made"))
        connection.execute(one, given)
    if op.get_context().dialect.name == "postgresql":
        op.alter_column("deltamem_agents", "secret", server_default=None)
    # What has left the live journal stays out of it: up to here, a message replaced one of the same id in any session.
    across = (
        sa.select(MESSAGES.c.agent_key)
        .group_by(MESSAGES.c.agent_key, MESSAGES.c.id)
        .having(sa.func.count(sa.distinct(MESSAGES.c.session)) > 1)
    )
    connection.execute(sa.update(AGENTS).where(AGENTS.c.key.in_(across)).values(agent_ids_until=AGENTS.c.head))
