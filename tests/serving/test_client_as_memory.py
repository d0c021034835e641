"""The memory's own tests, on the client of a server: what they say of `AgentMemory` holds of `RemoteMemory`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from deltamem_agents import DeltaMem
from deltamem_agents.client import Client
from tests.memory.conftest import distance, open_mem, url  # noqa: F401  # fixtures
from tests.memory.test_history import (  # noqa: F401  # the tests, and their fixtures
    agent,
    fresh,
    numbered,
    test_a_dry_run_says_the_same_and_changes_nothing,
    test_a_message_of_one_of_them_is_erased,
    test_a_receipt_names_ids_and_hashes_and_no_text,
    test_a_rollback_and_its_undoing,
    test_after_an_erasure_the_agent_never_saw_it,
    test_an_id_alone_that_several_sessions_have_erases_nothing,
    test_diff_says_what_came_what_went_and_how_far_the_state_moved,
    test_forks_are_listed_or_erased_too,
    test_ids_are_unique_within_their_session,
    test_what_an_erased_message_had_replaced_is_live_again,
    test_what_was_said_around_a_record,
)
from tests.serving.conftest import served

pytestmark = pytest.mark.slow


class Remote(Client):
    """A client; and, for what the tests compare with, the memory that it asks."""

    local: DeltaMem

    @property
    def engine(self) -> Any:
        return self.local.engine

    @property
    def store(self) -> Any:
        return self.local.store


@pytest.fixture
def mem(open_mem: Any) -> Iterator[Remote]:  # noqa: F811
    local = open_mem()
    with served(local, rate=0) as address, Remote(address) as client:
        client.local = local
        yield client
