"""Rollbacks, forks and erasures; states without a header of three kilobytes; the version is Alembic's.

Revision ID: 0002
"""

import hashlib
import json
import struct

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add what is new, and write stored states in the new form."""
    op.add_column("deltamem_agents", sa.Column("origin", KEY))
    op.create_index("deltamem_agents_origin", "deltamem_agents", ["origin"])
    op.create_table(
        "deltamem_rollbacks",
        sa.Column("agent_key", KEY, sa.ForeignKey("deltamem_agents.key", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("target", sa.BigInteger, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
    )
    op.create_table(
        "deltamem_purges",
        sa.Column("key", KEY, primary_key=True),
        sa.Column("requested_at", TIME, nullable=False),
        sqlite_autoincrement=True,
    )
    _rewrite_states()
    op.drop_table("deltamem_schema")


def _rewrite_states() -> None:
    revisions = sa.table(
        "deltamem_revisions",
        *(sa.column(name) for name in ("agent_key", "fingerprint", "position", "state", "checksum")),
    )
    connection = op.get_bind()
    keys = (revisions.c.agent_key, revisions.c.fingerprint, revisions.c.position)
    for agent_key, fingerprint, position in connection.execute(sa.select(*keys)).all():
        this = sa.and_(
            revisions.c.agent_key == agent_key,
            revisions.c.fingerprint == fingerprint,
            revisions.c.position == position,
        )
        row = connection.execute(sa.select(revisions.c.state, revisions.c.checksum).where(this)).one()
        intact = hashlib.sha256(row.state).hexdigest() == row.checksum
        state = _stacked(bytes(row.state)) if intact else None
        if state is None:  # not a state, or damaged: the journal is folded again
            connection.execute(sa.delete(revisions).where(this))
        else:
            checksum = hashlib.sha256(state).hexdigest()
            connection.execute(sa.update(revisions).where(this).values(state=state, checksum=checksum))


def _stacked(data: bytes) -> bytes | None:
    """A safetensors file of one tensor a module as one of a single tensor that holds them all, in order of layers."""
    try:
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        names = sorted((name for name in header if name != "__metadata__"), key=_layer)
        before, _, after = names[0].partition(str(_layer(names[0])))
        shape = header[names[0]]["shape"]
        parts = [data[8 + length :][slice(*header[name]["data_offsets"])] for name in names]
        same = all(
            header[name]["shape"] == shape
            and name == f"{before}{_layer(name)}{after}"
            and header[name]["dtype"] == "F32"
            for name in names
        )
    except (struct.error, ValueError, KeyError, IndexError, TypeError):
        return None
    if not same:
        return None
    body = b"".join(parts)
    modules = f"{before}*{after} " + ",".join(str(_layer(name)) for name in names)
    entry = {"dtype": "F32", "shape": [len(names), *shape], "data_offsets": [0, len(body)]}
    encoded = json.dumps({"__metadata__": {"modules": modules}, "state": entry}, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded + body


def _layer(name: str) -> int:
    """The layer's number in a module's name."""
    numbers = [int(part) for part in name.split(".") if part.isdecimal()]
    return numbers[0]
