"""SQL: schema, journal, revisions, records. The only folder that imports SQLAlchemy; torch only when `codec` is used.

May import: SQLAlchemy, `deltamem_agents.errors`. Knows nothing of models, adapters, or how records are ranked.
"""

from deltamem_agents.store.database import masked
from deltamem_agents.store.journal import AgentInfo
from deltamem_agents.store.messages import Entry, check_id, check_messages
from deltamem_agents.store.records import StoredRecord
from deltamem_agents.store.revisions import Revision
from deltamem_agents.store.store import Store

__all__ = ["AgentInfo", "Entry", "Revision", "Store", "StoredRecord", "check_id", "check_messages", "masked"]
