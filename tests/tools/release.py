"""Make a release: `make release` writes its files to dist/release.

They are the source distribution, the wheel, a bill of materials of the wheel with the locked
versions (CycloneDX), and the checksums of all three. twine checks the metadata as a package index
would. Nothing is uploaded. `make release-installs` tries the wheel in empty environments.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import msgspec
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import License, LicenseAcknowledgement
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.tools.lock_dependencies import LOCKED, PROJECT, ROOT, USER_EXTRAS, versions_in

CHECKSUMS = "SHA256SUMS"


class ReleaseFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the release."""

    name: str
    bytes: int
    sha256: str


def main() -> int:
    """Run the command line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--out", type=Path, default=ROOT / "dist" / "release", metavar="DIR")
    options.add_argument("--json", action="store_true", help="print the files as JSON")
    given = options.parse_args()
    try:
        files = make_release(given.out)
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd[2]} failed:\n{error.stdout}{error.stderr}")
    if given.json:
        print(msgspec.json.encode(files).decode())
    else:
        for file in files:
            print(f"{file.sha256[:16]}...  {file.bytes:>10,} bytes  {given.out / file.name}")
    return 0


def make_release(out: Path) -> list[ReleaseFile]:
    """Write the files of the release to the new or emptied folder *out*.

    Raises CalledProcessError if a step fails, and SystemExit if the changelog lacks the version.
    """
    project = tomllib.loads(PROJECT.read_text())["project"]
    check_changelog((ROOT / "CHANGELOG.md").read_text(), project["version"])
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    run("build", "--no-isolation", "--outdir", out, ROOT)
    built = sorted(out.iterdir())
    run("twine", "check", "--strict", *built)
    bill = out / f"{project['name']}-{project['version']}.cdx.json"
    bill.write_text(bill_of_materials(project, out) + "\n")
    files = [describe(file) for file in (*built, bill)]
    lines = "".join(f"{file.sha256}  {file.name}\n" for file in files)
    (out / CHECKSUMS).write_text(lines)
    return files


def run(module: str, *arguments: str | Path) -> None:
    """Run a Python module as a command."""
    command = [sys.executable, "-m", module, *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)


def check_changelog(text: str, version: str) -> None:
    """Raise SystemExit unless the changelog has a section for *version*."""
    if not re.search(rf"^## \[{re.escape(version)}\]", text, re.MULTILINE):
        sys.exit(f"CHANGELOG.md has no section [{version}], the version of pyproject.toml")


def describe(file: Path) -> ReleaseFile:
    """The size and the checksum of *file*."""
    content = file.read_bytes()
    return ReleaseFile(name=file.name, bytes=len(content), sha256=sha256(content).hexdigest())


# -- the bill of materials ------------------------------------------------------------------------


def bill_of_materials(project: Mapping[str, Any], out: Path) -> str:
    """A CycloneDX document of the wheel in *out* with its libraries, in locked versions.

    Libraries of the base installation are required, those of the extras for users optional.
    Licences and dependencies are those that the libraries of this environment declare. The
    document has no time and no random number: the same locks give the same bytes.
    """
    base = set(versions_in((LOCKED / "device.txt").read_text())) - {"pip"}
    bill = Bom()
    (wheel,) = out.glob("*.whl")
    own = Component(
        name=project["name"],
        version=project["version"],
        type=ComponentType.APPLICATION,
        bom_ref="cipherfleet",
        hashes=[_hash(describe(wheel).sha256)],
        licenses=[LicenseFactory().make_from_string(project["license"])],
    )
    bill.metadata.component = own
    locked = dict(locked_libraries((LOCKED / "extras.txt").read_text()))
    components = {
        name: _component(name, *each, is_base=name in base) for name, each in locked.items()
    }
    bill.components = components.values()
    for name, component in components.items():
        needed = [components[each] for each in _needs(name) if each in components]
        bill.register_dependency(component, needed)
    direct = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    for extra in USER_EXTRAS:
        lines = project["optional-dependencies"][extra]
        direct |= {canonicalize_name(Requirement(line).name) for line in lines}
    bill.register_dependency(own, [components[name] for name in direct & set(components)])
    document = msgspec.json.decode(JsonV1Dot6(bill).output_as_string())
    document.pop("serialNumber", None)
    document["metadata"].pop("timestamp", None)
    return msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=1).decode()


def locked_libraries(text: str) -> Iterator[tuple[str, tuple[str, list[str], str]]]:
    """Name, version, hashes and marker of each library of a locked list."""
    pattern = r"^([a-z0-9-]+)==([^\s;]+)(?: ; ([^\\\n]*?))?(?: \\)?\n((?: +--hash=.*\n?)+)"
    for name, version, marker, hashes in re.findall(pattern, text, re.MULTILINE):
        yield name, (version, re.findall(r"sha256:([0-9a-f]{64})", hashes), marker.strip())


def _component(
    name: str, version: str, hashes: list[str], marker: str, *, is_base: bool
) -> Component:
    """A library; every file of it that pip may install has one of the hashes."""
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        scope=ComponentScope.REQUIRED if is_base else ComponentScope.OPTIONAL,
        bom_ref=f"{name}=={version}",
        purl=PackageURL("pypi", name=name, version=version),
        licenses=_licences(name),
        properties=[
            *(Property(name="cipherfleet:file-sha256", value=each) for each in sorted(hashes)),
            *([Property(name="cipherfleet:marker", value=marker)] if marker else []),
        ],
    )


def _hash(value: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=value)


def _licences(name: str) -> list[License]:
    """The licence that an installed library declares; none if it is not installed here."""
    try:
        metadata = distribution(name).metadata
    except PackageNotFoundError:
        return []
    text = metadata["License-Expression"] or _first_line(metadata["License"])
    names = [
        line.rpartition(" :: ")[2]
        for line in metadata.get_all("Classifier") or ()
        if line.startswith("License ::")
    ]
    if not text and not names:
        return []
    declared = LicenseAcknowledgement.DECLARED
    made = LicenseFactory().make_from_string(text or names[0], license_acknowledgement=declared)
    return [made]


def _first_line(text: str | None) -> str:
    """A licence's name; some libraries have the whole text in its place."""
    return text if text and "\n" not in text and len(text) < 80 else ""


def _needs(name: str) -> Iterator[str]:
    """The libraries that the installed library *name* needs directly."""
    try:
        lines = distribution(name).requires or []
    except PackageNotFoundError:
        return
    for line in lines:
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            yield canonicalize_name(wanted.name)


if __name__ == "__main__":
    sys.exit(main())
