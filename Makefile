# `make demo` and `make test` set up all they need first; `make demo KEEP=1` leaves the demo running,
# `make demo SECURE=1` has TLS, passwords and the least rights everywhere.
# More arguments: make demo ARGS="--calls 100", make test ARGS="tests/unit -k resolve", make test JOBS=4.
.PHONY: audit changelog dist docs licences screenshots setup compiled demo demo-kamailio test test-compiled test-paused lint fmt sim bench bench-resolve bench-reader bench-stream bench-replay bench-dashboard chaos soak clean

python := .venv/bin/python

# COMPILED=1 before or behind a target: the domain compiled by mypyc goes before its sources.
ifneq ($(filter-out 0,$(COMPILED)),)
export PYTHONSAFEPATH := 1
export PYTHONPATH := $(CURDIR)/.tools/compiled
setup: compiled
endif

setup:
	@sh scripts/setup.sh

demo: setup
	@$(python) -m ops.cli demo $(if $(filter-out 0,$(KEEP)),--keep) $(if $(filter-out 0,$(SECURE)),--secure) $(ARGS)

# Real calls: two Kamailios, phones made of SIPp, and each CDR beside its caller's own log.
demo-kamailio: setup
	@$(python) -m ops.demo_kamailio $(if $(filter-out 0,$(KEEP)),--keep) $(ARGS)

# Files of tests go to two processes, each with servers of its own: most of their time is waiting.
test: setup
	@$(python) -m pytest -n $(or $(JOBS),2) --dist loadfile --no-loadscope-reorder $(ARGS)

# The same on a machine that is paused again and again: what fails only here waits too short, or
# was never right.
test-paused: setup
	@$(python) -m scripts.pauses $(python) -m pytest -n $(or $(JOBS),2) --dist loadfile --no-loadscope-reorder $(ARGS)

# The domain compiled by mypyc, into .tools/compiled; its tests are those of the sources.
compiled:
	@PYTHONPATH= sh scripts/setup.sh
	@PYTHONPATH= sh scripts/compiled.sh

test-compiled: compiled
	@EXPECT_COMPILED=1 PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/.tools/compiled $(python) -m pytest -o pythonpath=.tools/compiled \
	  $$(grep -l callstate tests/unit/*.py) tests/property $(ARGS)

lint: setup
	@$(python) -m ruff format --check
	@$(python) -m ruff check
	@$(python) -m mypy
	@.venv/bin/lint-imports

fmt: setup
	@$(python) -m ruff format
	@$(python) -m ruff check --fix

# Seeded worlds in virtual time: make sim SEED=7 SECONDS=60. A failure prints its seed.
sim: setup
	@$(python) -m ops.simulation --seed $(or $(SEED),1) --seconds $(or $(SECONDS),30) $(ARGS)

# The reader beside pg_recvlogical, targets beside the figures: make bench-reader ARGS="--only backlog".
bench-reader: setup
	@$(python) -m ops.bench.reader $(ARGS)

# Faults by a seed while writers write, every row accounted for: make soak SECONDS=600 SEED=7.
soak: setup
	@SOAK_SECONDS=$(or $(SECONDS),300) SOAK_SEED=$(or $(SEED),1) $(python) -m pytest \
	  tests/integration/test_reader_soak.py $(ARGS)

# All benchmarks, one after the other; each prints its targets beside its figures.
bench: bench-resolve bench-reader bench-stream bench-replay bench-dashboard

# The worker: backlog beside an ordinary Faust agent, delays, takeover of a dead worker's partitions,
# two workers: make bench-stream ARGS="--only latency --only takeover".
bench-stream: setup
	@$(python) -m ops.bench.stream $(ARGS)

# Replays: speed, two processes beside one, memory, what the service feels of them beside it.
bench-replay: setup
	@$(python) -m ops.bench.replay $(ARGS)

# Readers, workers, broker, servers, sink and links killed, frozen and cut by a seed under traffic, every
# CDR checked: make chaos SECONDS=600 SEED=7. With an even seed open calls are in RocksDB.
chaos: setup
	@CHAOS_SEED=$(or $(SEED),1) CHAOS_SECONDS=$(or $(SECONDS),60) $(python) -m pytest -s \
	  tests/integration/test_chaos.py $(ARGS)

# What the dashboard takes with one viewer and a hundred, and how quick it is on a million CDRs.
bench-dashboard: setup
	@$(python) -m ops.bench.dashboard $(ARGS)

# How fast `resolve` is, and how much memory a row takes: make bench-resolve ARGS="--rows 2000000".
bench-resolve: setup
	@$(python) -m ops.bench.resolve $(ARGS)

# What is released, into dist/: the same bytes from the same commit, whoever builds it.
dist: setup licences
	@$(python) -m scripts.release

# Of everything that an installation brings.
licences: setup
	@$(python) -m scripts.licences

# Whether a dependency has a known vulnerability: fails if one has. Where no advisories can be had it
# says so loudly, and fails only with STRICT=1.
audit: setup
	@$(python) -m scripts.audit $(if $(filter-out 0,$(STRICT)),--strict) \
	  env UV_PYTHON=$(CURDIR)/$(python) UV_PROJECT_ENVIRONMENT=.tools/audit .tools/uv/bin/uv run --frozen --quiet --only-group audit pip-audit

# What the next release will say; with VERSION=0.2.0 it goes into CHANGELOG.md, and changes/ is empty.
changelog: setup
	@$(python) -m $(if $(VERSION),towncrier build --yes --version $(VERSION),scripts.changelog --news)

# The site of docs/, into build/site; its programs live in an environment of their own.
docs: setup
	@$(python) -m scripts.cli_reference
	@mkdir -p build && $(python) -m scripts.changelog >build/changelog.md
	@NO_MKDOCS_2_WARNING=1 UV_PYTHON=$(CURDIR)/$(python) UV_PROJECT_ENVIRONMENT=.tools/docs .tools/uv/bin/uv run --frozen --quiet --only-group docs \
	  mkdocs build --quiet $(ARGS)
	@echo "docs: build/site/index.html"

# The pictures of docs/img, taken in a real Chromium of a demo that runs.
screenshots: setup
	@$(python) scripts/screenshots.py

clean:
	rm -rf .tools .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
