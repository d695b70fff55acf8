# Conveniences only: README.md gives the two commands that need no make.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: setup check test hil bench kernels slowed forgeries unseen explore flapping interrupts device deb deb-test ansible-test boards fuzz schema lock latest pythons figures-of-code screenshots page-load site reference release release-installs journeys notebook recording live-shield
FUZZ_SECONDS ?= 300

setup: $(BIN)/pytest
$(BIN)/pytest: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --require-hashes -r locked/dev.txt
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

figures-of-code: setup
	$(BIN)/python -m tests.tools.code_figures

site: setup
	$(BIN)/python -m tests.tools.documentation_site

reference: setup
	$(BIN)/python -m tests.tools.reference_pages

release: setup
	$(BIN)/python -m tests.tools.release

notebook: setup
	$(BIN)/python -m tests.tools.notebook

journeys: setup
	$(BIN)/python -m tests.tools.journeys

release-installs: release
	$(BIN)/python -m tests.tools.wheel_installs

pythons: setup
	$(BIN)/python -m tests.tools.python_versions

lock:
	$(PYTHON) -m tests.tools.lock_dependencies

latest:
	$(PYTHON) -m tests.tools.latest_releases $(TESTS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup
	$(BIN)/python -m pytest

live-shield: setup
	LONG=1 $(BIN)/python -m pytest -n 0 -s tests/provisioning/test_live_provisioning.py -k shielded

hil: setup
	$(BIN)/python -m pytest hil_tests $(if $(BENCH),--bench $(BENCH))

bench: setup
	$(BIN)/python benchmarks/exchange.py --gate
	$(BIN)/python benchmarks/round.py latency
	$(BIN)/python benchmarks/round.py sealed --gate
	$(BIN)/python benchmarks/round.py throughput
	$(BIN)/python benchmarks/round.py growth
	$(BIN)/python benchmarks/to_accuracy.py --gate
	$(BIN)/python benchmarks/prediction.py --gate
	$(BIN)/python benchmarks/idle.py --gate
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/simulation_scale.py --gate
	$(BIN)/python benchmarks/rounds_by_gap.py --gate
	$(BIN)/python benchmarks/average_sweep.py
	$(BIN)/python benchmarks/followers.py
	$(BIN)/python benchmarks/drift.py
	$(BIN)/python benchmarks/outputs_memory.py --gate

kernels: setup
	$(BIN)/python -m tests.tools.kernels

slowed: setup
	$(BIN)/python -m tests.tools.slowed_work

unseen: setup
	$(BIN)/python -m tests.tools.unseen_files --count 60

forgeries: setup
	$(BIN)/python -m tests.tools.forgeries --count 10000

flapping: setup
	$(BIN)/python -m tests.tools.flapping_path

interrupts: setup
	$(BIN)/python -m tests.tools.interrupts

device: setup
ifeq ($(ARCH),arm64)
	$(BIN)/python -m tests.tools.booted_card --arch arm64 --keys operator --within 3600
else
	$(BIN)/python -m tests.tools.device_root
	$(BIN)/python -m tests.tools.device_root --tls operator
	$(BIN)/python -m tests.tools.device_root --tls device
	$(BIN)/python -m tests.tools.booted_card --keys operator
	$(BIN)/python -m tests.tools.booted_card --keys device --cuts 3
endif

deb: setup
	$(BIN)/python deploy/debian/build_deb.py $(ARCH:%=--arch %) $(PYTHONS:%=--python %)

deb-test: setup
	$(BIN)/python -m tests.tools.booted_package bookworm
	$(BIN)/python -m tests.tools.booted_package trixie

ansible-test: setup
	$(BIN)/python -m tests.tools.ansible_playbook

boards: setup
	$(BIN)/python -m tests.tools.emulated_arm64

explore: setup
	$(BIN)/python -m tests.tools.explore_rounds --seconds 600 --at-random
	$(BIN)/python -m tests.tools.explore_rounds --seconds 600 --at-random --pairwise
	$(BIN)/python -m tests.tools.explore_rounds --seconds 600 --graph complete4 --heal 12

fuzz: setup
	$(BIN)/pip install -q -c constraints.txt -e '.[fuzz]'
	$(BIN)/python -m tests.tools.fuzz_frames
	$(BIN)/python -m tests.tools.fuzz_atheris -max_total_time=$(FUZZ_SECONDS)

screenshots: setup
	$(BIN)/python -m tests.tools.page_screenshots

recording: setup
	$(BIN)/python -m tests.tools.record_demo

page-load: setup
	$(BIN)/python -m tests.tools.page_load --gate

schema: setup
	$(BIN)/python -m cipherfleet_provisioning.fleet.schema
	$(BIN)/python -m cipherfleet_hil.measurement.document
