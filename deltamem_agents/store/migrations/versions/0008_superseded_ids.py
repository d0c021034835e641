"""Messages that were superseded or rolled back are found by session and id, as live ones are.

Revision ID: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the index; of a journal without such messages it is empty."""
    left = sa.text("left_at IS NOT NULL")
    op.create_index(
        "deltamem_messages_superseded_id",
        "deltamem_messages",
        ["agent_key", "session", "id"],
        sqlite_where=left,
        postgresql_where=left,
    )
