"""Build the Debian package of a node: dist/cipherfleet-node_VERSION_ARCH.deb.

The package contains wheels for the Pythons of Debian 12 and 13. Its script postinst installs them
without a network, with deploy/devices/install.sh. Needs dpkg-deb, and the [dev] environment.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from email import message_from_string
from email.utils import formatdate
from itertools import pairwise
from pathlib import Path

from click.shell_completion import BashComplete, ZshComplete

from cipherfleet_deploy.cli.main import cli
from cipherfleet_deploy.containers.image import MACHINES, MANYLINUX

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PACKAGE = "cipherfleet-node"
MAINTAINER = "cipherfleet maintainers <maintainers@cipherfleet.invalid>"
PYTHONS = ("3.11", "3.13")  # of Debian 12 and 13
SCRIPTS = ("postinst", "prerm", "postrm")
DESCRIPTION = """\
node of a sensor fleet that agrees on one answer over ciphertexts
 cipherfleet-node runs one node of a fleet of sensors. The nodes solve a joint
 problem, for example a calibration or an average. Each node keeps its readings;
 only Paillier ciphertexts travel, over an MQTT broker.
 .
 This package installs the programs under /opt/cipherfleet, without a network.
 The node's archive from "cipherfleet provision bundle" is installed with
 cipherfleet-install, which also starts the service.
"""


def main() -> int:
    """Build the package of each architecture and print its path."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--arch", choices=sorted(MACHINES), action="append", help="default: all")
    options.add_argument(
        "--python", action="append", help=f"may be repeated; default: {' and '.join(PYTHONS)}"
    )
    options.add_argument("--wheels", type=Path, help="wheels to take instead of downloading them")
    options.add_argument("--out", type=Path, default=ROOT / "dist", help="default: dist")
    given = options.parse_args()
    pythons = sorted(set(given.python or PYTHONS), key=_minor)
    for arch in given.arch or sorted(MACHINES):
        with tempfile.TemporaryDirectory(prefix="cipherfleet-deb-") as folder:
            tree = Path(folder) / PACKAGE
            wheels = tree / "usr/share/cipherfleet/wheels"
            if given.wheels:
                shutil.copytree(given.wheels, wheels)
            else:
                collect_wheels(wheels, arch, pythons)
            print(build(tree, wheels, arch, pythons, given.out))
    return 0


def collect_wheels(wheels: Path, arch: str, pythons: Sequence[str]) -> None:
    """Build our wheel, and download those of all libraries for each of *pythons*."""
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    own = ["wheel", "--no-deps", "--no-index", "--no-build-isolation"]
    run(*pip, *own, "-w", wheels, ROOT)
    platforms = [f"--platform={each}_{MACHINES[arch]}" for each in MANYLINUX]
    locked = ["--require-hashes", "-r", ROOT / "locked/device.txt"]
    for python in pythons:
        target = ["--implementation=cp", f"--python-version={python}", *platforms]
        run(*pip, "download", "--only-binary=:all:", *target, "-d", wheels, *locked)


def build(tree: Path, wheels: Path, arch: str, pythons: Sequence[str], out: Path) -> Path:
    """Build the package from *wheels*, which are inside *tree*. Return its path."""
    (wheel,) = wheels.glob("cipherfleet-*.whl")
    version = debian_version(wheel.name.split("-")[1])
    at = source_date()
    add_files(tree, wheels, version, at)
    for path in tree.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.suffix == ".sh" else 0o644)
    add_control(tree, version, arch, pythons)
    tree.chmod(0o755)
    for path in (tree, *tree.rglob("*")):
        os.utime(path, (at, at), follow_symlinks=False)
    out.mkdir(parents=True, exist_ok=True)
    package = out / f"{PACKAGE}_{version}_{arch}.deb"
    # The wheels are compressed already: more effort would take a minute and save nothing.
    os.environ["SOURCE_DATE_EPOCH"] = str(at)
    run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", tree, package)
    return package


def add_files(tree: Path, wheels: Path, version: str, at: int) -> None:
    """Add everything but the wheels and the control files."""
    share = tree / "usr/share"
    shutil.copy(ROOT / "deploy/devices/install.sh", share / "cipherfleet")
    for folder, name, target in (
        ("usr/bin", "cipherfleet-node", "/opt/cipherfleet/current/bin/cipherfleet-node"),
        ("usr/sbin", "cipherfleet-install", "../share/cipherfleet/install.sh"),
    ):
        (tree / folder).mkdir(parents=True)
        (tree / folder / name).symlink_to(target)
    manual = share / "man"
    run(sys.executable, HERE / "man_pages.py", manual)
    documents = share / "doc" / PACKAGE
    documents.mkdir(parents=True)
    (documents / "changelog").write_text(changelog(version, at))
    shutil.copy(ROOT / "CHANGELOG.md", documents)
    for file in (*manual.glob("*/*"), *documents.iterdir()):
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes(), 9, mtime=0))
        file.unlink()
    (documents / "copyright").write_text("\n".join(copyright_of(wheels, at)))
    add_completion(share)


def add_completion(share: Path) -> None:
    """Add the completion of both commands, for bash and zsh."""
    names = ("cipherfleet", "_CIPHERFLEET_COMPLETE")
    texts = {
        "bash-completion/completions/cipherfleet": BashComplete(cli, {}, *names).source(),
        "bash-completion/completions/cipherfleet-node": (HERE / f"{PACKAGE}.bash").read_text(),
        "zsh/vendor-completions/_cipherfleet": ZshComplete(cli, {}, *names).source(),
        "zsh/vendor-completions/_cipherfleet-node": (HERE / f"{PACKAGE}.zsh").read_text(),
    }
    for name, text in texts.items():
        (share / name).parent.mkdir(parents=True, exist_ok=True)
        (share / name).write_text(text)


def add_control(tree: Path, version: str, arch: str, pythons: Sequence[str]) -> None:
    """Add the control files. All other files of *tree* must be there."""
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    kib = sum(-(-path.stat().st_size // 1024) for path in files)
    sums = "".join(
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}"
        f"  {path.relative_to(tree)}\n"
        for path in files
    )
    control = tree / "DEBIAN"
    control.mkdir()
    (control / "md5sums").write_text(sums)
    (control / "control").write_text(
        f"Package: {PACKAGE}\nVersion: {version}\nArchitecture: {arch}\n"
        f"Maintainer: {MAINTAINER}\nInstalled-Size: {kib}\n"
        f"Depends: {', '.join(python_bounds(pythons))}, systemd\n"
        f"Section: net\nPriority: optional\nDescription: {DESCRIPTION}"
    )
    shutil.copy(HERE / "triggers", control)
    for name in SCRIPTS:
        shutil.copy(HERE / name, control)
        (control / name).chmod(0o755)


def python_bounds(pythons: Sequence[str]) -> Iterator[str]:
    """Conditions on the system's Python that only *pythons*, in ascending order, meet."""
    minors = [_minor(python) for python in pythons]
    yield f"python3 (>= 3.{minors[0]})"
    yield f"python3 (<< 3.{minors[-1] + 1}~)"
    for below, above in pairwise(minors):
        if above > below + 1:
            yield f"python3 (<< 3.{below + 1}~) | python3 (>= 3.{above})"


def _minor(python: str) -> int:
    return int(python.removeprefix("3."))


def debian_version(version: str) -> str:
    """Return Debian's form of *version*: a release candidate is older than its release."""
    return re.sub(r"\.?(a|b|rc|dev)(?=\d)", r"~\1", version)


def source_date() -> int:
    """Return the time of the latest change, in seconds since 1970: a build can be repeated."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return int(done.stdout)
    return int((ROOT / "CHANGELOG.md").stat().st_mtime)


def changelog(version: str, at: int) -> str:
    """Return the changelog in Debian's format."""
    return (
        f"{PACKAGE} ({version}) unstable; urgency=medium\n\n"
        f"  * The changes are listed in /usr/share/doc/{PACKAGE}/CHANGELOG.md.gz.\n\n"
        f" -- {MAINTAINER}  {formatdate(at)}\n"
    )


def copyright_of(wheels: Path, at: int) -> Iterator[str]:
    """The paragraphs of the file copyright: ours, and one for each library."""
    yield (HERE / "copyright").read_text().replace("@YEAR@", str(time.gmtime(at).tm_year))
    libraries = {}
    for wheel in sorted(wheels.glob("*.whl")):
        name = wheel.name.split("-")[0]
        if name != "cipherfleet":
            libraries[name] = wheel
    for name, wheel in libraries.items():
        with zipfile.ZipFile(wheel) as archive:
            (file,) = (each for each in archive.namelist() if _METADATA.fullmatch(each))
            about = message_from_string(archive.read(file).decode())
        author = about["Author"] or about["Author-email"] or about["Maintainer-email"]
        licence = about["License-Expression"] or about["License"]
        yield (
            f"Files: usr/share/cipherfleet/wheels/{name}-*.whl\n"
            f"Copyright: {author}\n"
            f"License: {_OPERATOR.sub(lambda found: found[0].lower(), licence)}\n"
            f" The text of the licence is in the wheel, in {name}-*.dist-info.\n"
        )


_METADATA = re.compile(r"[^/]+\.dist-info/METADATA")
_OPERATOR = re.compile(r" (AND|OR|WITH) ")


def run(*command: object) -> None:
    """Run a program without its output, and raise CalledProcessError if it fails."""
    subprocess.run([*map(str, command)], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
