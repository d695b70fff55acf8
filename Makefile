# Conveniences only: README.md gives the two commands that need no make.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: setup check test hil bench kernels slowed forgeries interrupts device boards fuzz schema lock latest pythons
FUZZ_SECONDS ?= 300

setup: $(BIN)/pytest
$(BIN)/pytest: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --require-hashes -r locked/dev.txt
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

pythons: setup
	$(BIN)/python tests/python_versions.py

lock:
	$(PYTHON) tests/lock_dependencies.py

latest:
	$(PYTHON) tests/latest_releases.py $(TESTS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup
	$(BIN)/python -m pytest

hil: setup
	$(BIN)/python -m pytest hil_tests $(if $(BENCH),--bench $(BENCH))

bench: setup
	$(BIN)/python benchmarks/exchange.py --gate
	$(BIN)/python benchmarks/round.py latency
	$(BIN)/python benchmarks/round.py sealed --gate
	$(BIN)/python benchmarks/round.py throughput
	$(BIN)/python benchmarks/round.py growth
	$(BIN)/python benchmarks/prediction.py --gate
	$(BIN)/python benchmarks/idle.py --gate
	$(BIN)/python benchmarks/simulation_scale.py --gate
	$(BIN)/python benchmarks/average_sweep.py

kernels: setup
	$(BIN)/python tests/kernels.py

slowed: setup
	$(BIN)/python tests/slowed_work.py

forgeries: setup
	$(BIN)/python tests/forgeries.py --count 10000

interrupts: setup
	$(BIN)/python tests/interrupts.py

device: setup
	$(BIN)/python tests/device_root.py
	$(BIN)/python tests/device_root.py --tls operator
	$(BIN)/python tests/device_root.py --tls device

boards: setup
	$(BIN)/python tests/emulated_arm64.py

fuzz: setup
	$(BIN)/pip install -q -c constraints.txt -e '.[fuzz]'
	$(BIN)/python tests/fuzz_frames.py
	$(BIN)/python tests/fuzz_atheris.py -max_total_time=$(FUZZ_SECONDS)

schema: setup
	$(BIN)/python -m cipherfleet_provisioning.fleet.schema
	$(BIN)/python -m cipherfleet_hil.measurement.document
