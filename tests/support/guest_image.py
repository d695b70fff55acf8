"""A disk image laid out like Raspberry Pi OS, for a guest under QEMU: made once, then cached.

The image has an MBR, a FAT partition `bootfs` that the system mounts at /boot/firmware, and an ext4
root with Debian trixie and cloud-init. Making it needs root (mmdebstrap), but no loop device and no
mount. QEMU has no firmware of a Raspberry Pi, so kernel and initrd lie beside the image.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cipherfleet_deploy.cards.boot_partition import SECTOR, Image

BROKER_HOST = "broker.cipherfleet.test"
HOST_ADDRESS = "10.0.2.2"  # the machine that runs QEMU, as a guest with user networking sees it

RECIPE = 1  # raise it when the functions below make another image of the same tables
SUITE = "trixie"
# What Raspberry Pi OS Lite has, as far as the installation of a node concerns it.
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "udev", "kmod", "initramfs-tools"),
    *("python3", "cloud-init", "netplan.io", "iproute2", "dosfstools", "e2fsprogs"),
    *("ca-certificates", "sudo", "linux-image-cloud-amd64"),
)
TOOLS = ("mmdebstrap", "sfdisk", "mkfs.vfat", "mkfs.ext4", "mcopy", "debugfs")

MIB = 1024 * 1024
BOOT_MIB, ROOT_MIB = 256, 1536
BOOT_OFFSET = 4 * MIB
ROOT_OFFSET = BOOT_OFFSET + BOOT_MIB * MIB
DISK_ID = "c1f0ee70"

KERNEL_LINE = f"root=PARTUUID={DISK_ID}-02 rootfstype=ext4 fsck.repair=yes rootwait net.ifnames=0"
BOOT_FILES = {
    "config.txt": "arm_64bit=1\n",
    "cmdline.txt": f"console=tty1 {KERNEL_LINE} ds=nocloud;i=rpi-imager-1\n",
    "user-data": "#cloud-config\ntimezone: Europe/Vienna\n",
    "meta-data": "instance-id: rpi-imager-1\n",
    "network-config": "# empty: the system's own settings\n",
}
# An emulated disk may take minutes to appear on a busy machine; systemd waits 90 s by itself.
PATIENCE = "x-systemd.device-timeout=900"
ROOT_FILES = {
    "etc/fstab": f"""\
PARTUUID={DISK_ID}-01 /boot/firmware vfat defaults,{PATIENCE} 0 2
PARTUUID={DISK_ID}-02 / ext4 defaults,noatime 0 1
""",
    # The second line stands for the name server of the operator's network.
    "etc/hosts": f"127.0.0.1 localhost\n{HOST_ADDRESS} {BROKER_HOST}\n",
    "etc/hostname": "raspberrypi\n",
    "etc/machine-id": "uninitialized\n",
    # systemd need not rebuild what it rebuilds after an update of the system.
    "etc/.updated": "",
    "var/.updated": "",
    "etc/cloud/cloud.cfg.d/99_raspberry-pi.cfg": """\
datasource_list: [NoCloud, None]
datasource: {NoCloud: {fs_label: bootfs}}
manage_etc_hosts: false
""",
    # The guest's journal is all that the tests see of a running guest.
    "etc/systemd/journald.conf.d/console.conf": """\
[Journal]
Storage=persistent
ForwardToConsole=yes
MaxLevelConsole=info
TTYPath=/dev/console
""",
}
# They take time from a slow processor, and nothing here depends on them.
MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer"),
    *("e2scrub_all.timer", "e2scrub_reap.service", "systemd-networkd-wait-online.service"),
)


class NoGuest(Exception):
    """This machine cannot make or run a guest; the text says what is missing."""


@dataclass(frozen=True)
class GuestImage:
    """A disk image with the kernel and the initrd that boot it."""

    disk: Path
    kernel: Path
    initrd: Path

    @property
    def boot(self) -> Image:
        """The FAT partition."""
        return Image(self.disk, BOOT_OFFSET)

    def read_root(self, name: str) -> bytes | None:
        """Return the file *name* of the ext4 partition, or None. The guest must be off."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy"
            self._debugfs(f'dump "/{name}" "{copy}"')
            return copy.read_bytes() if copy.exists() else None

    def names_in_root(self, folder: str) -> list[str]:
        """Return the names in *folder* of the ext4 partition. The guest must be off."""
        listed = self._debugfs(f'ls -p "/{folder}"').splitlines()
        names = [line.split("/")[5] for line in listed if line.startswith("/")]
        return [name for name in names if name not in (".", "..", "")]

    def write_root(self, name: str, data: bytes) -> None:
        """Write the file *name* of the ext4 partition, in a folder that exists."""
        with tempfile.NamedTemporaryFile() as copy:
            copy.write(data)
            copy.flush()
            self._debugfs(f'rm "/{name}"', writes=True)
            self._debugfs(f'write "{copy.name}" "/{name}"', writes=True)

    def link_root(self, name: str, target: str) -> None:
        """Make the symbolic link *name* of the ext4 partition, and the folder that holds it."""
        self._debugfs(f'mkdir "/{Path(name).parent}"', writes=True)
        self._debugfs(f'symlink "/{name}" "{target}"', writes=True)

    def copy_root(self, folder: Path) -> None:
        """Copy the ext4 partition to *folder*, without set-user-id and the other special bits."""
        folder.mkdir()
        self._debugfs(f'rdump / "{folder}"')

    def _debugfs(self, request: str, *, writes: bool = False) -> str:
        where = f"{self.disk}?offset={ROOT_OFFSET}"
        command = ["debugfs", *(["-w"] if writes else []), "-R", request, where]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def copy(self, folder: Path) -> GuestImage:
        """Return a copy for one run in *folder*; it takes little room until it is written to."""
        disk = folder / "card.img"
        command = ["cp", "--sparse=always", "--reflink=auto", str(self.disk), str(disk)]
        subprocess.run(command, check=True)
        return GuestImage(disk, self.kernel, self.initrd)


def cache_folder() -> Path:
    """Return the folder of things that take long to make."""
    own = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) / "cipherfleet"


def recipe_digest() -> str:
    """Return the digest of all that decides what is in the image."""
    recipe = (RECIPE, SUITE, PACKAGES, MASKED, BOOT_FILES, ROOT_FILES)
    return hashlib.sha256(repr((recipe, BOOT_MIB, ROOT_MIB)).encode()).hexdigest()[:12]


def guest_image(folder: Path | None = None) -> GuestImage:
    """Return the image in the cache *folder*, and make it if it is not there (minutes)."""
    return cached_image(folder or cache_folder(), f"guest-{recipe_digest()}", _make_root)


def cached_image(cache: Path, name: str, make_root: Callable[[Path], None]) -> GuestImage:
    """Return the image *name* of *cache*. If it is not there, make it from what *make_root* writes.

    Images of the same kind with another digest are removed: a name is the kind, a hyphen, a digest.
    """
    place, kind = cache / name, name.rpartition("-")[0]
    with locked(cache, kind):
        if not place.exists():
            _check_tools()
            fresh = place.with_suffix(".fresh")
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            try:
                make_root(fresh / "root")
                _write_root_files(fresh / "root")
                _make_disk(fresh)
                fresh.rename(place)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
            for old in cache.glob(f"{kind}-*"):
                if old != place:
                    shutil.rmtree(old)
    return GuestImage(place / "disk.img", place / "vmlinuz", place / "initrd.img")


@contextmanager
def locked(cache: Path, what: str) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _check_tools() -> None:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        raise NoGuest(f"making an image needs root and {', '.join(missing or TOOLS)}")


def _make_disk(place: Path) -> None:
    """Write the disk, the kernel and the initrd to *place* from the root in it; remove the root."""
    root, disk = place / "root", place / "disk.img"
    for name in ("vmlinuz", "initrd.img"):
        shutil.copyfile((root / name).resolve(), place / name)
    with disk.open("wb") as stream:
        stream.truncate(ROOT_OFFSET + (ROOT_MIB + 4) * MIB)
    table = f"label: dos\nlabel-id: 0x{DISK_ID}\n"
    table += f"start={BOOT_OFFSET // SECTOR}, size={BOOT_MIB * MIB // SECTOR}, type=c\n"
    table += f"start={ROOT_OFFSET // SECTOR}, size={ROOT_MIB * MIB // SECTOR}, type=83\n"
    run("sfdisk", "--quiet", str(disk), given=table)
    fat = place / "boot.img"  # mkfs.vfat --offset makes a file system that mtools cannot read
    with fat.open("wb") as stream:
        stream.truncate(BOOT_MIB * MIB)
    run("mkfs.vfat", "-F", "32", "-n", "bootfs", str(fat))
    where = ("bs=1M", f"seek={BOOT_OFFSET // MIB}", "conv=notrunc,sparse", "status=none")
    run("dd", f"if={fat}", f"of={disk}", *where)
    fat.unlink()
    ext4 = ["-q", "-L", "rootfs", "-d", str(root), "-E", f"offset={ROOT_OFFSET}"]
    run("mkfs.ext4", *ext4, str(disk), f"{ROOT_MIB}M")
    boot = Image(disk, BOOT_OFFSET)
    for name, text in BOOT_FILES.items():
        boot.write(name, text.encode())
    shutil.rmtree(root)


def _make_root(root: Path) -> None:
    options = ["--variant=minbase", "--architectures=amd64", f"--include={','.join(PACKAGES)}"]
    run("mmdebstrap", "--quiet", "--aptopt=Acquire::Retries 3", *options, SUITE, str(root))


def _write_root_files(root: Path) -> None:
    for name, text in ROOT_FILES.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_text(text)
    (root / "boot/firmware").mkdir(exist_ok=True)
    for unit in MASKED:
        link = root / "etc/systemd/system" / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")


def run(*command: str, given: str = "", folder: Path | None = None) -> None:
    """Run *command* in *folder*. Raises RuntimeError with the end of its output if it fails."""
    done = subprocess.run(
        command, input=given, cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{(done.stdout + done.stderr)[-2000:]}")
