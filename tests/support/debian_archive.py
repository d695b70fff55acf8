"""A clean Debian as a tar archive, for the base image of containers and for the Debian package.

mmdebstrap takes half a minute of processor time, so that all processes of a run share one archive.
"""

from __future__ import annotations

import fcntl
from pathlib import Path

from cipherfleet_deploy.containers.image import BASE_PACKAGES, make_debian

# Of the base image alone: a device has no pip, and its Python makes no environment with one.
PIP_PACKAGES = ("python3-venv", "python3.11-venv", "python3-pip-whl", "python3-setuptools-whl")


def debian_archive(folder: Path) -> Path:
    """Return the archive in *folder*, which is made if it is not there."""
    archive = folder / "debian.tar"
    with (folder / "debian.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            fresh = folder / "debian.fresh.tar"
            make_debian(fresh, lambda _text: None, packages=f"{BASE_PACKAGES},systemd")
            fresh.rename(archive)
    return archive
