"""The first tables. They kept their version in a table of their own, ``deltamem_schema``; SQLite only.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
ID = sa.String(255)
TIME = sa.DateTime(timezone=True)

FULL_TEXT = (
    """CREATE VIRTUAL TABLE deltamem_records_fts USING fts5(
           agent_key, text, terms, content='deltamem_records', content_rowid='key',
           tokenize="porter unicode61 remove_diacritics 2 categories 'L* N* Co Mn Mc'")""",
    """CREATE TRIGGER deltamem_records_added AFTER INSERT ON deltamem_records BEGIN
           INSERT INTO deltamem_records_fts(rowid, agent_key, text, terms)
           VALUES (new.key, new.agent_key, new.text, new.terms); END""",
    """CREATE TRIGGER deltamem_records_removed AFTER DELETE ON deltamem_records BEGIN
           INSERT INTO deltamem_records_fts(deltamem_records_fts, rowid, agent_key, text, terms)
           VALUES ('delete', old.key, old.agent_key, old.text, old.terms); END""",
    """CREATE TRIGGER deltamem_records_changed AFTER UPDATE ON deltamem_records BEGIN
           INSERT INTO deltamem_records_fts(deltamem_records_fts, rowid, agent_key, text, terms)
           VALUES ('delete', old.key, old.agent_key, old.text, old.terms);
           INSERT INTO deltamem_records_fts(rowid, agent_key, text, terms)
           VALUES (new.key, new.agent_key, new.text, new.terms); END""",
)


def upgrade() -> None:
    """Create the tables and their version."""
    op.create_table("deltamem_schema", sa.Column("version", sa.Integer, primary_key=True, autoincrement=False))
    op.create_table(
        "deltamem_agents",
        sa.Column("key", KEY, primary_key=True),
        sa.Column("id", ID, nullable=False, unique=True),
        sa.Column("epoch", KEY, nullable=False),
        sa.Column("head", sa.BigInteger, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "deltamem_messages",
        sa.Column("agent_key", KEY, sa.ForeignKey("deltamem_agents.key", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("id", ID, nullable=False),
        sa.Column("session", ID, nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("blocks", sa.JSON),
        sa.Column("metadata", sa.JSON),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("left_at", sa.BigInteger),
    )
    live = sa.text("left_at IS NULL")
    op.create_index(
        "deltamem_messages_live_id",
        "deltamem_messages",
        ["agent_key", "id"],
        unique=True,
        sqlite_where=live,
        postgresql_where=live,
    )
    op.create_table(
        "deltamem_revisions",
        sa.Column("agent_key", KEY, sa.ForeignKey("deltamem_agents.key", ondelete="CASCADE"), primary_key=True),
        sa.Column("fingerprint", ID, primary_key=True),
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("epoch", KEY, nullable=False),
        sa.Column("parent", sa.BigInteger, nullable=False),
        sa.Column("checksum", sa.String(64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "deltamem_records",
        sa.Column("key", KEY, primary_key=True),
        sa.Column("agent_key", sa.BigInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("chunk", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("terms", sa.Text),
        sa.UniqueConstraint("agent_key", "position", "chunk"),
        sa.ForeignKeyConstraint(
            ["agent_key", "position"],
            ["deltamem_messages.agent_key", "deltamem_messages.position"],
            ondelete="CASCADE",
        ),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "deltamem_embeddings",
        sa.Column("record_key", KEY, sa.ForeignKey("deltamem_records.key", ondelete="CASCADE"), primary_key=True),
        sa.Column("model", ID, primary_key=True),
        sa.Column("dim", sa.Integer, nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
    )
    for statement in FULL_TEXT:
        op.execute(statement)
    op.execute("INSERT INTO deltamem_schema VALUES (1)")
