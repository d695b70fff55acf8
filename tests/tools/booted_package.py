"""The Debian package on a booted Debian: `python -m tests.tools.booted_package [SUITE]`, as root.

It makes a clean Debian (mmdebstrap), boots it (systemd-nspawn), installs the package with dpkg and
the node's archive with cipherfleet-install, and lets the node join a fleet of this machine. The
service then goes on through the same package again, an upgrade, a downgrade, another Python,
removal and a new installation. After the purge nothing is left.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cipherfleet_broker import start_broker
from cipherfleet_node.runtime.store import read_state
from tests.support.debian_package import (
    NEWER,
    PACKAGE,
    PLACES,
    DebianRoot,
    agree,
    build_package,
    newer_package,
)
from tests.support.device_card import NODE, OTHERS, Site, others_running, plain_site
from tests.tools.device_root import (
    UNIT,
    booted,
    inside,
    make_root,
    service,
    step,
    wait_for,
)

MOST_EXPOSED = 2.0  # of 10, by `systemd-analyze security`
PATIENCE_S = 300.0


def main() -> int:
    """Run it all; the exit code says how it went."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("suite", nargs="?", default="bookworm", help="default: bookworm")
    options.add_argument("--package", type=Path, help="the package for amd64; default: build it")
    options.add_argument("--root", type=Path, help="a tar archive of a clean Debian to use instead")
    given = options.parse_args()
    needed = ["systemd-nspawn", "nsenter", "dpkg-deb", *([] if given.root else ["mmdebstrap"])]
    missing = [tool for tool in needed if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        sys.exit(
            f"needs root, and: {' '.join(needed)} (apt-get install mmdebstrap systemd-container)"
        )
    with tempfile.TemporaryDirectory(prefix="cipherfleet-package-") as folder:
        show(Path(folder), given.suite, given.package, given.root)
    return 0


def show(folder: Path, suite: str, package: Path | None, archive: Path | None) -> None:
    """The package's life in *folder*."""
    step(f"a clean Debian: {suite}")
    make_root(folder / "root", archive or folder / "root.tar", suite)
    package = package or build_package(folder)
    newer = newer_package(package, folder)
    step(f"{package.name}: {package.stat().st_size / 1e6:.1f} MB")
    site = plain_site(folder)
    with (
        start_broker("embedded", site.port, site.security),
        others_running(site.bundles),
        booted(folder / "root") as device,
    ):
        step("booted")
        debian = DebianRoot(folder / "root", inside(device))
        clean = debian.left_behind()
        debian.install(package)
        step("installed the package")
        install_bundle(debian, site)
        goes_on(debian, site)
        step(f"joined: {service(device, 'User', 'NRestarts', 'ActiveState', 'MemoryCurrent')}")
        step(f"exposure {exposure(debian)}")
        change_versions(debian, site, device, package, newer)
        replace_python(debian, site, device)
        debian.must("dpkg", "--remove", PACKAGE)
        assert "ActiveState=inactive" in service(device, "ActiveState")
        assert not (debian.path / "opt/cipherfleet").exists()
        debian.install(package)
        goes_on(debian, site)
        step("removed and installed again: the node has its keys and its state")
        debian.must("dpkg", "--purge", PACKAGE)
        assert "LoadState=not-found" in service(device, "LoadState")
        assert [place for place in PLACES if (debian.path / place).exists()] == []
        left = [place for place in debian.left_behind() if place not in clean]
        assert left == [], left
        step("purged: nothing is left")


def install_bundle(debian: DebianRoot, site: Site) -> None:
    """Install the node's archive as an operator does."""
    bundle = debian.path / "root/bundle.tar.gz"
    subprocess.run(["tar", "-C", site.nodes, "-czf", bundle, NODE], check=True)
    debian.must("cipherfleet-install", "--bundle", "/root/bundle.tar.gz")


def goes_on(debian: DebianRoot, site: Site) -> None:
    """Wait until the node has closed five more rounds and agrees with its neighbours."""
    folder = debian.path / "var/lib/cipherfleet" / NODE
    nodes = [folder, *(site.bundles[name] for name in OTHERS)]
    saved = read_state(folder)
    latest = saved.round if saved else 0
    wait_for(lambda: agree(nodes, latest + 5), "the node closes rounds", PATIENCE_S)


def exposure(debian: DebianRoot) -> float:
    """The rating of the running unit by systemd itself."""
    text = debian.must("systemd-analyze", "security", "--no-pager", UNIT)
    found = re.search(r"exposure level for \S+: ([0-9.]+)", text)
    assert found is not None
    assert float(found[1]) <= MOST_EXPOSED
    return float(found[1])


def change_versions(
    debian: DebianRoot, site: Site, device: int, package: Path, newer: Path
) -> None:
    """The same version again, an upgrade, and a downgrade."""
    process = service(device, "MainPID")
    debian.install(package)
    assert service(device, "MainPID") == process
    step("installed the same version again: the service was not restarted")
    for name, each in (("upgraded", newer), ("downgraded", package)):
        before = service(device, "MainPID")
        debian.install(each)
        wait_for(lambda: service(device, "MainPID") != before, "a restart", PATIENCE_S)  # noqa: B023
        goes_on(debian, site)
        step(f"{name} to {debian.runs()}: {service(device, 'ActiveState', 'NRestarts')}")
    assert debian.runs() != NEWER


def replace_python(debian: DebianRoot, site: Site, device: int) -> None:
    """Do to the version to run what an upgrade of the system does, which brings another Python."""
    (library,) = (debian.path / "opt/cipherfleet/current/lib").glob("python3.*")
    library.rename(library.with_name("python3.9"))
    before = service(device, "MainPID")
    debian.must("dpkg-trigger", "--by-package=python3-minimal", "/usr/bin/python3")
    debian.must("dpkg", "--triggers-only", PACKAGE)
    wait_for(lambda: service(device, "MainPID") != before, "a restart", PATIENCE_S)
    goes_on(debian, site)
    step("another Python: the version was made again")


if __name__ == "__main__":
    sys.exit(main())
