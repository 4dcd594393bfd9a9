# The one entry for developers and CI. Needs Python >= 3.11 and make; `make` alone lists the targets.

PYTHON ?= python3
PY     := .venv/bin/python
PIP    := $(PY) -m pip --quiet --disable-pip-version-check
KILLS  ?= 20
SWAPS  ?= 200
PYTEST ?=
# Two at a time: half of the tests wait for a broker or a child while the others compute. A file stays with one process,
# so that what its tests share is made once; each process has a Kafka of its own. In the listing's order: by size, the
# few slow tests of tests/system would come last. PYTEST="-n 0" runs one by one.
TWO    := -n 2 --dist loadfile --no-loadscope-reorder
MODELS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test check unit chaos soak bench models gpu lock clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: .venv/run.ok  ## broker, a pump line, ten turbofans, worker and live view, all in this terminal, under 60 s
	.venv/bin/kizashi demo

test: check .build/kafka.ok .build/gpu.ok  ## everything a change must pass: check, then all tests
	$(PY) -m pytest $(TWO) $(PYTEST)

check: .venv/dev.ok  ## lint, types, import rules, dependency closure (no test, no broker)
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache
	.venv/bin/deptry .

unit: .venv/dev.ok  ## the tests that need no broker and no second process
	$(PY) -m pytest $(TWO) tests/unit tests/property tests/contract $(PYTEST)

chaos: .venv/dev.ok .build/kafka.ok  ## kill -9 the worker on real Kafka, KILLS=20 times, judged by the oracle
	$(PY) -m tests.chaos --kills $(KILLS)

soak: .venv/dev.ok .build/kafka.ok  ## swap models under load on real Kafka, SWAPS=200 times
	$(PY) -m tests.soak --swaps $(SWAPS)

bench: .venv/dev.ok .build/kafka.ok  ## every benchmark of tests/bench, one table each
	$(PY) -m tests.bench

models: .venv/dev.ok  ## train and score every model in full, write tests/bench/MODELS.md (MODELS=cmapss for one)
	$(PY) -m tests.zoo $(MODELS)

gpu: .venv/dev.ok  ## what only a GPU can show, with latencies; names the device, or says loudly that there is none
	@$(PY) -m tests.gpu.bed.real $(PYTEST)

# `--universal`: one lock for every platform and Python. No option may add a registry's address to the files.
COMPILE := .venv/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --quiet \
           --no-emit-index-url --no-emit-find-links --no-annotate --no-header

lock: | .venv/bin/python  ## resolve anew and write the hash-locked requirements files (no registry address in them)
	$(PIP) install uv
	$(COMPILE) --upgrade --extra demo --extra onnx --extra parquet --extra train --group dev --group build -o requirements-dev.txt
	$(COMPILE) --extra demo -c requirements-dev.txt -o requirements.txt
	$(COMPILE:pyproject.toml=tests/gpu/bed/requirements.in) --upgrade -c requirements-dev.txt -o requirements-gpu.txt
	$(COMPILE:pyproject.toml=) --group build -c requirements-dev.txt -o requirements-build.txt

clean:  ## remove what make made: environment, Kafka jars, caches
	rm -rf .venv .build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find schemas engines pipeline tests infra -name __pycache__ -type d -prune -exec rm -rf {} +

# ---------------------------------------------------------------------------------------------------
# Environment. A stamp is newer than the lock it was installed from, so a second run installs nothing.

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Kizashi needs Python >= 3.11, $(PYTHON) is older. Run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/run.ok: requirements.txt requirements-build.txt pyproject.toml | .venv/bin/python
	@echo "installing into ./.venv what requirements.txt pins (once, until it changes)"
	$(PIP) install --require-hashes -r requirements.txt -r requirements-build.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

.venv/dev.ok: requirements-dev.txt pyproject.toml | .venv/bin/python
	@echo "installing into ./.venv what requirements-dev.txt pins (once, until it changes)"
	$(PIP) install --require-hashes -r requirements-dev.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@ .venv/run.ok

# Apache Kafka for the broker tests: 54 MB of jars by Maven. Without Java or Maven those tests skip and say so,
# unless KIZASHI_REQUIRE=kafka, which makes it a failure.
.build/kafka.ok: infra/kafka/pom.xml | .venv/dev.ok
	@mkdir -p .build
	@$(PY) -c 'from tests import kafka; print(kafka.why_not() or kafka.fetch_jars() or "Apache Kafka: jars in .build/kafka")'
	@touch $@

# The bed of tests/gpu: PyCUDA built from source over a stand-in libcuda, and TensorRT-RTX; 100 MB and about a minute.
# Without gcc or on another platform those tests skip and say so, unless KIZASHI_REQUIRE=gpu-bed. The module looks at
# hashes itself; this stamp only spares its start.
.build/gpu.ok: requirements-gpu.txt tests/gpu/bed/build.py $(wildcard tests/gpu/bed/cuda/*) | .venv/dev.ok
	@mkdir -p .build
	@$(PY) -m tests.gpu.bed
	@touch $@
