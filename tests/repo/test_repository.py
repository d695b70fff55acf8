"""Checks of the repository as a whole."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.paths import ROOT

BIN = Path(sys.executable).parent
DOCUMENTS = sorted(
    file
    for file in ROOT.rglob("*.md")
    if not {".venv", ".git", ".pytest_cache", "cipherfleet-out"} & set(file.parts)
)


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"], ["lint-imports"]],
    ids=["ruff check", "ruff format", "mypy", "import contracts"],
)
def test_the_checks_pass(command: list[str]) -> None:
    done = subprocess.run(
        [BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def commands_of_readme() -> list[str]:
    text = (ROOT / "README.md").read_text()
    return [
        line
        for block in re.findall(r"```sh\n(.*?)```", text, re.S)
        for line in block.split("\n")
        if line
    ]


def test_the_gate_runs_the_readmes_test_command() -> None:
    demo, test = commands_of_readme()
    assert demo.endswith("cipherfleet demo")
    assert test in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document}: {target} does not exist"


def test_every_test_that_a_docstring_or_a_promise_names_exists() -> None:
    sources = [
        f
        for room in ("node", "broker", "provisioning", "deploy", "lab")
        for f in (ROOT / room).rglob("*.py")
    ] + [ROOT / "SECURITY.md"]
    named = {name for f in sources for name in re.findall(r"\b(test_\w+[a-z])\b", f.read_text())}
    tests = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    missing = {
        name for name in named if f"def {name}(" not in tests and f"def {name}[" not in tests
    }
    assert len(named) > 5
    assert not missing


def test_the_state_table_of_the_protocol_is_the_one_that_runs() -> None:
    from cipherfleet_node.core.round import TRANSITIONS

    text = (ROOT / "node" / "PROTOCOL.md").read_text()
    rows = [
        f"| {phase.value} | {trigger.value} | {after.value} |"
        for (phase, trigger), after in TRANSITIONS.items()
    ]
    table = re.findall(r"^\| (?:starting|reading|collecting|finished) \|.*$", text, re.M)
    assert table == rows


def test_the_device_imports_nothing_of_the_workstation() -> None:
    code = (
        "import sys, cipherfleet_node.runtime.run_node, cipherfleet_node.__main__;"
        "heavy = {'phe', 'click', 'rich', 'docker', 'matplotlib', 'networkx', 'scipy', 'pydantic'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_command_of_the_makefile_is_there() -> None:
    text = (ROOT / "Makefile").read_text()
    modules = re.findall(r"python -m ([\w.]+)|\$\(PYTHON\) -m (tests[\w.]+)", text)
    files = re.findall(r"\$\(BIN\)/python ([\w/]+\.py)", text)
    assert len(modules) > 10
    assert files
    for name in (one or other for one, other in modules):
        assert find_spec(name) is not None, f"make runs {name}"
    for file in files:
        assert (ROOT / file).is_file(), f"make runs {file}"


def test_the_commands_that_make_runs_without_libraries_need_none() -> None:
    names = re.findall(r"\$\(PYTHON\) -m (tests[\w.]+)", (ROOT / "Makefile").read_text())
    assert names
    for name in names:
        command = [sys.executable, "-S", "-m", name, "--help"]  # -S: no installed libraries
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
