"""An installation without extras: each missing library gives one clear line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cipherfleet_node import installation
from tests.support.lent_environment import make_environment
from tests.support.paths import ROOT

OURS = ["click", "rich", "docker", "jsonschema", "matplotlib", "networkx", "scipy"]


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs' folder of an environment that holds our wheel and no extra."""
    folder = tmp_path_factory.mktemp("bare installation")
    pip = [sys.executable, "-m", "pip", "-q"]
    wheel = [*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, ROOT]
    made = run(*wheel)
    assert made.returncode == 0, made.stderr
    (file,) = folder.glob("*.whl")
    return make_environment(folder / "venv", file)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], ["demo", "--nodes", "3"]])
def test_the_operators_command_says_what_to_install(arguments: list[str], bare: Path) -> None:
    result = run(bare / "cipherfleet", *arguments)
    (wheel,) = bare.parent.parent.glob("*.whl")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "cipherfleet: this command needs click, which is not installed; install it with: "
        f"pip install '{wheel}[operator]'\n"
    )


def test_the_devices_command_works(bare: Path, tmp_path: Path) -> None:
    result = run(bare / "cipherfleet-node", "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "doctor" in result.stdout
    result = run(bare / "cipherfleet-node", "doctor", tmp_path)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert "bundle" in result.stdout


@pytest.mark.parametrize(
    ("library", "extra", "arguments"),
    [
        ("click", "operator", ["--help"]),
        ("rich", "operator", ["run", "examples/average/fleet.yaml"]),
        ("docker", "operator", ["fleet", "status", "examples/average/fleet.yaml"]),
        ("scipy", "lab", ["simulate"]),
    ],
)
def test_whenever_a_library_is_missed_it_is_named_with_its_extra(
    library: str, extra: str, arguments: list[str]
) -> None:
    script = f"import sys; sys.modules[{library!r}] = None; sys.argv[1:] = {arguments}\n"
    script += "from cipherfleet_deploy.__main__ import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"cipherfleet: this command needs {library}, which is not installed; install it with: "
        f"{installation.install_command(extra)}\n"
    )


@pytest.mark.parametrize("library", OURS)
def test_every_library_of_the_workstation_belongs_to_an_extra(library: str) -> None:
    assert f"[{'lab' if library == 'scipy' else 'operator'}]" in installation.missing_library(
        f"{library}.part"
    )


def test_the_remedy_names_the_place_that_we_were_installed_from() -> None:
    source = {"url": "file:///home/me/the%20fleet", "dir_info": {"editable": True}}
    command = installation.pip_command(source, "lab")
    assert command == "pip install -e '/home/me/the fleet[lab]'"
    copied = {"url": "file:///src", "dir_info": {}}
    assert installation.pip_command(copied, "lab") == "pip install '/src[lab]'"
    assert installation.pip_command(copied, "") == "pip install /src"
    wheel = {"url": "file:///w/cipherfleet-1-py3-none-any.whl", "archive_info": {}}
    command = installation.pip_command(wheel, "operator")
    assert command == "pip install '/w/cipherfleet-1-py3-none-any.whl[operator]'"
    assert "PATH is the source folder or the wheel" in installation.pip_command({}, "lab")


def test_no_remedy_names_an_index_that_does_not_hold_us() -> None:
    patterns = ("*/cipherfleet_*/**/*.py", "*.md", "*/*.md", "docs/**/*.md")
    for file in (each for pattern in patterns for each in ROOT.glob(pattern)):
        assert not re.search(r"pip install '?cipherfleet\b", file.read_text()), file
