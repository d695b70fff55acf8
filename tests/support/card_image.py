"""Images of cards, partitioned and formatted by the system's own tools."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOOLS = {"mkfs.vfat": "dosfstools", "mcopy": "mtools", "sfdisk": "fdisk"}
MISSING = [
    package
    for tool, package in TOOLS.items()
    if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None
]
needs_tools = pytest.mark.skipif(
    bool(MISSING), reason=f"IMAGES WERE NOT TESTED: apt-get install {' '.join(MISSING)}"
)
MIB = 1024 * 1024
BEGIN_MIB, SIZE_MIB = 4, 40
# What the images of the two systems have in their boot partitions, as far as we look.
TRIXIE = {
    "config.txt": "arm_64bit=1\n",
    "cmdline.txt": "console=tty1 root=PARTUUID=1-02\n",
    "user-data": "#cloud-config\n# hostname: raspberrypi\n",
    "meta-data": "dsmode: local\ninstance_id: rpios-image\n",
    "network-config": "# network:\n#  version: 2\n",
}
UBUNTU = {
    "config.txt": "[all]\n",
    "cmdline.txt": "root=LABEL=writable\n",
    "user-data": "#cloud-config\nchpasswd:\n  expire: true\nssh_pwauth: true\nruncmd:\n- [ls]\n",
    "meta-data": "instance-id: nocloud\n",
    "network-config": "version: 2\nethernets:\n  eth0: {dhcp4: true}\nwifis: {}\n",
}


def run(*command: str | Path, given: str | None = None) -> None:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    subprocess.run(
        [*map(str, command)],
        input=given,
        text=True,
        check=True,
        capture_output=True,
        env={**os.environ, "PATH": path},
    )


def make_image(image: Path, table: str, fat: str, files: dict[str, str]) -> Path:
    """An image with one FAT partition, partitioned and formatted by the system's own tools."""
    with image.open("wb") as stream:
        stream.truncate((BEGIN_MIB + SIZE_MIB + 4) * MIB)
    kind = "c" if table == "dos" else "U"
    run(
        "sfdisk",
        "-q",
        image,
        given=f"label: {table}\nstart={BEGIN_MIB}MiB, size={SIZE_MIB}MiB, type={kind}\n",
    )
    partition = image.with_suffix(".fat")
    with partition.open("wb") as stream:
        stream.truncate(SIZE_MIB * MIB)
    run("mkfs.vfat", "-F", fat, partition)
    with image.open("rb+") as stream:
        stream.seek(BEGIN_MIB * MIB)
        stream.write(partition.read_bytes())
    volume = f"{image}@@{BEGIN_MIB * MIB}"
    for name, text in files.items():
        file = image.parent / "file"
        file.write_text(text)
        run("mcopy", "-i", volume, file, f"::/{name}")
    return image


def read_files(image: Path, folder: Path) -> dict[str, bytes]:
    """All files of the partition, read with the offset that the test itself knows."""
    folder.mkdir()
    run("mcopy", "-s", "-i", f"{image}@@{BEGIN_MIB * MIB}", "::/*", folder)
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
