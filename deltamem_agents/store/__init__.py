"""SQL: schema, journal, revisions, records. Only this folder imports SQLAlchemy; torch loads when `codec` is used.

May import: SQLAlchemy, and the modules beside the layers, such as `deltamem_agents.messages`. Knows nothing of models,
adapters, or how records are ranked.
"""

from deltamem_agents.messages import Entry, MessageRef, check_id, check_messages, wording, wording_of
from deltamem_agents.store.archive import Progress
from deltamem_agents.store.database import check_place
from deltamem_agents.store.erasing import Erased, Plan, Selection
from deltamem_agents.store.fold_input import FoldInput
from deltamem_agents.store.journal import AgentInfo
from deltamem_agents.store.journal_events import Event, Family, JournalEvents, Relative
from deltamem_agents.store.masking import masked
from deltamem_agents.store.message_lookup import Described, MessageLookup
from deltamem_agents.store.record_index import RecordIndex
from deltamem_agents.store.records import StoredRecord
from deltamem_agents.store.revisions import Retention, Revision, check_retention
from deltamem_agents.store.selected import Select, is_select
from deltamem_agents.store.states import States
from deltamem_agents.store.statistics import Backlog
from deltamem_agents.store.store import Store
from deltamem_agents.store.tombstones import Said

__all__ = [
    "AgentInfo",
    "Backlog",
    "Described",
    "Entry",
    "Erased",
    "Event",
    "Family",
    "FoldInput",
    "JournalEvents",
    "MessageLookup",
    "MessageRef",
    "Plan",
    "Progress",
    "RecordIndex",
    "Relative",
    "Retention",
    "Revision",
    "Said",
    "Select",
    "Selection",
    "States",
    "Store",
    "StoredRecord",
    "check_id",
    "check_messages",
    "check_place",
    "check_retention",
    "is_select",
    "masked",
    "wording",
    "wording_of",
]
