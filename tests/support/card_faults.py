"""Faults of a booted card: a boot partition that mounts late, and two errors of earlier versions.

A fault is what a device meets. A defect is an error of ours that is built in again: the trial of a
card must fail with it. See tests/tools/booted_card.py.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import yaml

from tests.support.guest_image import PATIENCE, ROOT_FILES, GuestImage

# systemd takes the partition for ready only 30 s after cloud-init has run all its commands.
LATE_MOUNT = {
    "etc/fstab": ROOT_FILES["etc/fstab"].replace(
        f"defaults,{PATIENCE}", "defaults,nofail,x-systemd.device-timeout=5"
    ),
    "etc/udev/rules.d/99-late.rules": (
        'ENV{ID_FS_LABEL}=="bootfs", TEST!="/run/mount-now", ENV{SYSTEMD_READY}="0"\n'
    ),
    "etc/systemd/system/late-mount.service": """\
[Unit]
Description=The boot partition appears late
After=cloud-final.service

[Service]
Type=oneshot
ExecStart=sh -c 'sleep 30; touch /run/mount-now; udevadm trigger --subsystem-match=block'
""",
}
LATE_MOUNT_LINK = "etc/systemd/system/cloud-init.target.wants/late-mount.service"
FIRST_BOOT_ONCE = ["sh", "/boot/firmware/cipherfleet/first-boot.sh"]


def delay_mount(image: GuestImage) -> None:
    """Let the boot partition of *image* mount only after cloud-init has ended."""
    for name, text in LATE_MOUNT.items():
        image.write_root(name, text.encode())
    image.link_root(LATE_MOUNT_LINK, "/etc/systemd/system/late-mount.service")


def install_once(image: GuestImage) -> None:
    """Let cloud-init run first-boot.sh itself, once, without a unit: the defect `one-shot`."""
    text = (image.boot.read("user-data") or b"").decode()
    user = yaml.safe_load(text)
    del user["bootcmd"]
    user["runcmd"] = [FIRST_BOOT_ONCE]
    image.boot.write("user-data", f"#cloud-config\n{yaml.safe_dump(user)}".encode())


def look_for_key_in_folder(wheels: Path) -> None:
    """Let the node look for private keys in its own folder only: the defect `key-path`."""
    (wheel,) = wheels.glob("cipherfleet-*.whl")
    name = "cipherfleet_node/keys/key_files.py"
    with zipfile.ZipFile(wheel) as archive:
        files = {each: archive.read(each) for each in archive.namelist()}
    source = files[name].decode()
    marker = "    credentials = os.environ.get(CREDENTIALS_VARIABLE)\n    try:\n"
    assert source.count(marker) == 1
    files[name] = source.replace(marker, f"    return file\n{marker}").encode()
    record = next(each for each in files if each.endswith(".dist-info/RECORD"))
    lines = files[record].decode().splitlines()
    # pip takes a file that the list has without a checksum.
    kept = [f"{name},," if line.startswith(f"{name},") else line for line in lines]
    files[record] = ("\n".join(kept) + "\n").encode()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, data in files.items():
            archive.writestr(each, data)
