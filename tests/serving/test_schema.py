"""Schemathesis on the OpenAPI description: whatever fits it is answered as it says, and nothing is a 500."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from deltamem_agents import DeltaMem
from tests.serving.conftest import bearer, served

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    url = f"sqlite:///{tmp_path_factory.mktemp('schema')}/m.db"
    with DeltaMem.open(None, url=url) as mem:
        headers = bearer(mem, "*", "admin")
        with served(mem, rate=0, agent="alice") as base:
            yield base, headers


def test_what_fits_the_description_is_answered(server: tuple[str, dict[str, str]]) -> None:
    base, headers = server
    api = schemathesis.openapi.from_dict(httpx.get(f"{base}/openapi.json", headers=headers).json())
    operations = [each.ok() for each in api.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:

        @settings(max_examples=5, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def answered(case: schemathesis.Case) -> None:
            answer = case.call(base_url=base, headers=headers)
            assert answer.status_code < 500 or answer.status_code == 501, (case.method, case.path, answer.text)
            assert answer.headers["x-request-id"]

        answered()
