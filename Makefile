# Conveniences only: README.md gives the two commands that need no make.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: setup check test hil bench forgeries interrupts device boards fuzz schema
FUZZ_SECONDS ?= 300

setup: $(BIN)/pytest
$(BIN)/pytest: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -e '.[dev]'
	touch $@

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
	$(BIN)/python benchmarks/simulation_scale.py --gate
	$(BIN)/python benchmarks/average_sweep.py

forgeries: setup
	$(BIN)/python tests/forgeries.py --count 10000

interrupts: setup
	$(BIN)/python tests/interrupts.py

device: setup
	$(BIN)/python tests/device_root.py

boards: setup
	$(BIN)/python tests/emulated_arm64.py

fuzz: setup
	$(BIN)/pip install -q -e '.[fuzz]'
	$(BIN)/python tests/fuzz_frames.py
	$(BIN)/python tests/fuzz_atheris.py -max_total_time=$(FUZZ_SECONDS)

schema: setup
	$(BIN)/python -m cipherfleet_provisioning.schema
	$(BIN)/python -m cipherfleet_hil.measurement
