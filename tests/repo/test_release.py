"""The release: what is in its files, and what they say about themselves."""

from __future__ import annotations

import email
import json
import re
import subprocess
import tarfile
import tomllib
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.support.lent_environment import make_environment
from tests.support.paths import ROOT
from tests.tools.lock_dependencies import LOCKED, PROJECT, versions_in
from tests.tools.release import check_changelog, locked_libraries, make_release, run
from tests.tools.wheel_installs import USES, InstallResult, install_all

FILE = tomllib.loads(PROJECT.read_text())
NAME = f"{FILE['project']['name']}-{FILE['project']['version']}"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a release, which passed `twine check --strict`."""
    folder = tmp_path_factory.mktemp("release")
    make_release(folder / "files")
    return folder / "files"


def wheel_of(release: Path) -> Path:
    (wheel,) = release.glob("*.whl")
    return wheel


def metadata(release: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel_of(release)) as wheel:
        return email.message_from_bytes(wheel.read(f"{NAME}.dist-info/METADATA"))


def test_the_release_has_a_wheel_a_source_a_bill_and_their_checksums(release: Path) -> None:
    lines = dict(line.split()[::-1] for line in (release / "SHA256SUMS").read_text().splitlines())
    assert set(lines) == {f"{NAME}-py3-none-any.whl", f"{NAME}.tar.gz", f"{NAME}.cdx.json"}
    for name, expected in lines.items():
        assert sha256((release / name).read_bytes()).hexdigest() == expected
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=release, check=False)
    assert done.returncode == 0


def test_a_wheel_holds_all_packages_and_the_examples(release: Path) -> None:
    with zipfile.ZipFile(wheel_of(release)) as wheel:
        names = set(wheel.namelist())
    for package in ("node", "broker", "provisioning", "deploy", "lab", "hil"):
        assert f"cipherfleet_{package}/__init__.py" in names
    assert "cipherfleet_deploy/examples/intel_lab/intel_lab.csv" in names
    assert "cipherfleet_deploy/examples/intel_lab/fleet.yaml" in names
    assert "cipherfleet_deploy/devices/cipherfleet-node.service" in names
    assert "cipherfleet_deploy/devices/install.sh" in names
    assert "cipherfleet_provisioning/fleet/fleet.schema.json" in names
    assert "cipherfleet_hil/measurement/document.schema.json" in names
    assert "cipherfleet_hil/report/report.css" in names
    assert "cipherfleet_hil/report/page.mplstyle" in names
    static = (ROOT / "deploy/cipherfleet_deploy/watch/page/static").iterdir()
    assert {f"cipherfleet_deploy/watch/page/static/{file.name}" for file in static} <= names


def test_the_source_distribution_holds_what_the_tests_and_the_site_need(release: Path) -> None:
    with tarfile.open(release / f"{NAME}.tar.gz") as source:
        names = {name.removeprefix(f"{NAME}/") for name in source.getnames()}
    assert {"pyproject.toml", "LICENSE", "docs/site/conf.py", "locked/extras.txt"} <= names
    assert "tests/repo/test_release.py" in names
    assert not [name for name in names if re.search(r"\.(pem|key)$|paillier\.json$", name)]


def test_the_description_has_absolute_links_only(release: Path) -> None:
    text = metadata(release).get_payload()
    assert isinstance(text, str)
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert len(targets) > 10
    assert all(target.startswith("https://") for target in targets)
    source, version = FILE["project"]["urls"]["Source"], FILE["project"]["version"]
    assert f"]({source}/raw/v{version}/docs/images/demo.png)" in text
    assert f"]({source}/blob/v{version}/SECURITY.md)" in text
    relative = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text())
    assert all(f"/v{version}/{target}" in text for target in relative)


def test_one_file_holds_the_placeholders_of_the_addresses() -> None:
    host = re.compile(r"\w+\.cipherfleet\.example")
    listed = subprocess.run(
        ["git", "grep", "-lE", r"[a-z]+\.cipherfleet\.example", "--", ":!tests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout.split() == ["pyproject.toml"]
    source = FILE["project"]["urls"]["Source"]
    assert set(host.findall(PROJECT.read_text())) == {
        "code.cipherfleet.example",
        "docs.cipherfleet.example",
    }
    assert PROJECT.read_text().count(f"({source}/") == 2  # the two substitutions of the README


def test_the_metadata_names_authors_addresses_and_pythons(release: Path) -> None:
    found = metadata(release)
    assert found["Author"] == "cipherfleet developers"
    assert found["License-Expression"] == "Apache-2.0"
    named = {line.partition(",")[0] for line in found.get_all("Project-URL") or ()}
    assert named == {"Source", "Documentation", "Changelog", "Issues"}
    for minor in (11, 12, 13, 14):
        wanted = f"Programming Language :: Python :: 3.{minor}"
        assert wanted in (found.get_all("Classifier") or ())


# -- bill of materials ----------------------------------------------------------------------------


def test_the_bill_is_valid_and_has_every_locked_library_with_its_hashes(release: Path) -> None:
    text = (release / f"{NAME}.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    locked = versions_in((LOCKED / "extras.txt").read_text())
    assert {each["name"]: each["version"] for each in bill["components"]} == locked
    hashes = {
        each["name"]: {
            entry["value"] for entry in each["properties"] if entry["name"].endswith("file-sha256")
        }
        for each in bill["components"]
    }
    lines = (LOCKED / "extras.txt").read_text()
    assert sum(map(len, hashes.values())) == lines.count("--hash=sha256:")
    required = {each["name"] for each in bill["components"] if each["scope"] == "required"}
    assert required == set(versions_in((LOCKED / "device.txt").read_text())) - {"pip"}


def test_the_bill_names_the_wheel_its_licences_and_the_graph_of_dependencies(
    release: Path,
) -> None:
    bill = json.loads((release / f"{NAME}.cdx.json").read_text())
    (own,) = bill["metadata"]["component"]["hashes"]
    assert own["content"] == sha256(wheel_of(release).read_bytes()).hexdigest()
    needs = {each["ref"].split("==")[0]: each.get("dependsOn", []) for each in bill["dependencies"]}
    assert any(each.startswith("phe==") for each in needs["cipherfleet"])
    assert [each.split("==")[0] for each in needs["phe"]] in ([], ["gmpy2"])
    assert [each.split("==")[0] for each in needs["cffi"]] == ["pycparser"]
    licences = {each["name"]: str(each.get("licenses")) for each in bill["components"]}
    assert "GPL" in licences["phe"]
    assert "MIT" in licences["rich"]


def test_a_locked_list_is_read_with_hashes_and_markers() -> None:
    text = (
        "# head\na==1 \\\n    --hash=sha256:"
        + "0" * 64
        + "\nb-c==2.0 ; sys_platform == 'win32' \\\n    --hash=sha256:"
        + "1" * 64
        + " \\\n    --hash=sha256:"
        + "2" * 64
        + "\n"
    )
    assert dict(locked_libraries(text)) == {
        "a": ("1", ["0" * 64], ""),
        "b-c": ("2.0", ["1" * 64, "2" * 64], "sys_platform == 'win32'"),
    }


# -- what must stop a release ---------------------------------------------------------------------


def test_a_version_that_the_changelog_lacks_stops_the_release() -> None:
    check_changelog("## [1.2.3] - 2026-01-01\n", "1.2.3")
    with pytest.raises(SystemExit, match="no section"):
        check_changelog("## [1.2.3] - 2026-01-01\n", "1.2.4")


def test_a_description_that_cannot_be_shown_stops_the_release(tmp_path: Path) -> None:
    wheel = tmp_path / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr("a-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: a\nVersion: 1\n")
    with pytest.raises(subprocess.CalledProcessError):
        run("twine", "check", "--strict", wheel)


# -- the wheel in environments of its own ---------------------------------------------------------


@pytest.mark.parametrize("extra", ["operator", "page", "lab"])
def test_the_wheel_works_from_another_folder(extra: str, release: Path, tmp_path: Path) -> None:
    """With the extra only: real installations with pip are those of `make release-installs`."""
    programs = make_environment(tmp_path / "an environment", wheel_of(release), extra)
    (tmp_path / "elsewhere").mkdir()
    for (program, *arguments), code in USES[extra]:
        if arguments[0] == "run":  # daemons have tests of their own
            continue
        done = subprocess.run(
            [programs / program, *arguments],
            cwd=tmp_path / "elsewhere",
            env={"PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr


def test_a_python_that_is_not_there_is_named_and_a_failure_is_reported(tmp_path: Path) -> None:
    results = list(install_all(tmp_path / "x.whl", {"3.12": Path("/bin/false")}, [""]))
    outcomes = {result.python: result.outcome for result in results}
    assert outcomes == {
        "3.11": "not installed here",
        "3.12": "failed",
        "3.13": "not installed here",
        "3.14": "not installed here",
    }
    failed = next(result for result in results if result.outcome == "failed")
    assert isinstance(failed, InstallResult)
    assert "exit code 1, expected 0" in failed.failure
