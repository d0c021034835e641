"""Records know by which rule their message was cut; words are searched in their search form.

Words of records that are there are put into that form after this script, by the package itself, some hundred at a
time: see `recutting`. A record whose ``cut`` is null waits for that, or was cut before there was a rule.

Revision ID: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

CHANGED = """CREATE TRIGGER deltamem_records_changed AFTER UPDATE OF key, agent_key, text, terms
           ON deltamem_records BEGIN
           INSERT INTO deltamem_records_fts(deltamem_records_fts, rowid, agent_key, text, terms)
           VALUES ('delete', old.key, old.agent_key, old.text, old.terms);
           INSERT INTO deltamem_records_fts(rowid, agent_key, text, terms)
           VALUES (new.key, new.agent_key, new.text, new.terms); END"""


def upgrade() -> None:
    """Add the columns; a record whose rule alone changes is not indexed anew."""
    op.add_column("deltamem_records", sa.Column("cut", sa.BigInteger))
    op.add_column("deltamem_agents", sa.Column("cuts", sa.BigInteger))
    if op.get_context().dialect.name == "sqlite":
        op.execute("DROP TRIGGER deltamem_records_changed")
        op.execute(CHANGED)
