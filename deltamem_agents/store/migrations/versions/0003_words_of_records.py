"""PostgreSQL: the words of a record are a column, no longer an expression that is only in the index.

Revision ID: 0003
"""

from alembic import op

revision = "0003"
down_revision = "0002"

WORDS = (
    "DROP INDEX IF EXISTS deltamem_records_words",
    "ALTER TABLE deltamem_records ADD COLUMN words tsvector",
    """CREATE OR REPLACE FUNCTION deltamem_records_words() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           NEW.words := to_tsvector('pg_catalog.english',
               translate(left(NEW.text, 100000), '!#&*+-./:;<=>?@_~', '                 ')
               || ' ' || left(coalesce(NEW.terms, ''), 100000));
           RETURN NEW; END $$""",
    """CREATE TRIGGER deltamem_records_added BEFORE INSERT ON deltamem_records FOR EACH ROW
           WHEN (NEW.words IS NULL) EXECUTE FUNCTION deltamem_records_words()""",
    """CREATE TRIGGER deltamem_records_changed BEFORE UPDATE OF text, terms ON deltamem_records FOR EACH ROW
           EXECUTE FUNCTION deltamem_records_words()""",
    "UPDATE deltamem_records SET text = text",  # the trigger does the rest
    "CREATE INDEX deltamem_records_words ON deltamem_records USING gin (words)",
)


def upgrade() -> None:
    """Give every record its words."""
    if op.get_context().dialect.name == "postgresql":
        for statement in WORDS:
            op.execute(statement)
