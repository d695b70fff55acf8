"""Debian's kernel in a guest, as a laboratory: drivers and queues that this machine's kernel lacks.

The kernel is unpacked and never installed. The guest's root is this machine's own, read-only, so a
program runs there with the same Python environment and the same source as here.
"""

from __future__ import annotations

import json
import lzma
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .guest import Guest, Hardware
from .guest_image import NoGuest, cache_folder, locked
from .paths import ROOT

META_PACKAGE = "linux-image-amd64"  # depends on the package of the newest kernel
BASE_MODULES = ("virtio_pci", "9p", "9pnet_virtio", "virtio_rng")
DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")
RESULT = "result"  # the file of the guest's second serial port
WITHIN_S = 600.0

INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /host
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
{load}
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose,ro host /host
for name in proc sys dev; do mount --bind /$name /host/$name; done
mount -t tmpfs run /host/run
ip link set lo up
chroot /host /bin/sh -c {command} >/dev/ttyS1 2>&1 </dev/null
echo "exit code $?" >/dev/ttyS1
poweroff -f
"""


@dataclass(frozen=True)
class Outcome:
    """What a program in the guest has printed, and how it and the guest ended."""

    output: str
    exit_code: int
    cpu_s: float


def run_in_guest(
    command: Collection[str], modules: Mapping[str, str], within_s: float = WITHIN_S
) -> Outcome:
    """Run *command* in a guest that has loaded *modules* with their parameters.

    The command may write to /run only. Raises NoGuest if this machine lacks what a guest needs.
    """
    kernel, folder = unpacked_kernel()
    with tempfile.TemporaryDirectory(prefix="cipherfleet-guest-") as name:
        place = Path(name)
        initrd = place / "initrd"
        initrd.write_bytes(_initramfs(folder, modules, command))
        devices = [
            *("-chardev", f"file,id=result,path={place / RESULT}", "-serial", "chardev:result"),
            *("-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"),
            *("-device", "virtio-9p-pci,fsdev=host,mount_tag=host", "-nic", "none"),
            *("-device", "virtio-rng-pci"),
        ]
        line = "rdinit=/init quiet loglevel=4 random.trust_cpu=on"
        with Guest(Hardware(kernel, initrd, line, devices, 768), place) as guest:
            guest.switch_on()
            guest.await_end(within_s)
            output = (place / RESULT).read_text(errors="replace").replace("\r\n", "\n")
            printed, _, code = output.rpartition("exit code ")
            assert code.strip().isdigit(), f"no exit code: {output}\n{guest.console[-3000:]}"
            return Outcome(printed, int(code), guest.cpu_s)


def call_in_guest(function: Callable[[], Any], modules: Mapping[str, str]) -> Any:
    """Return the result of *function* in a guest, through JSON; skips where there is no guest."""
    code = f"from {function.__module__} import {function.__name__} as call\n"
    code += "import json\nprint(json.dumps(call()))"
    try:
        outcome = run_in_guest(python_command(code), modules)
    except NoGuest as error:
        pytest.skip(f"NO GUEST, NOT TESTED: {error}")
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.output)


def python_command(code: str) -> list[str]:
    """Return the command that runs *code* with this Python and this source."""
    path = os.pathsep.join(each for each in sys.path if each)
    variables = [f"PYTHONPATH={ROOT}{os.pathsep}{path}", "PYTHONDONTWRITEBYTECODE=1", "TMPDIR=/run"]
    variables += ["OPENBLAS_NUM_THREADS=1", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/run"]
    return ["env", "-i", *variables, sys.executable, "-c", code]


def unpacked_kernel() -> tuple[Path, Path]:
    """Return a kernel and the folder of its modules; downloads the package at first (70 MB)."""
    cache = cache_folder()
    with locked(cache, "linux-image"):
        found = list(cache.glob("linux-image-[0-9]*"))
        if not found:
            package = _kernel_package()
            with tempfile.TemporaryDirectory(dir=cache) as name:
                fresh = Path(name)
                _try(["apt-get", "download", package], fresh)
                (archive,) = fresh.glob("*.deb")
                _try(["dpkg", "-x", str(archive), "unpacked"], fresh)
                (fresh / "unpacked").rename(cache / package)
            found = [cache / package]
    (kernel,) = found[0].glob("boot/vmlinuz-*")
    (modules,) = (each for each in found[0].glob("**/lib/modules/*") if each.is_dir())
    return kernel, modules


def _kernel_package() -> str:
    listed = _try(["apt-cache", "depends", META_PACKAGE], Path("/"))
    package = re.search(r"Depends: (linux-image-\S+)", listed)
    if package is None:
        raise NoGuest(f"apt knows no {META_PACKAGE}")
    return package[1]


def _try(command: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        told = getattr(error, "stderr", "").strip().splitlines()[-1:]
        raise NoGuest(f"no kernel for a guest: {shlex.join(command)}: {told or error}") from None
    return done.stdout


# -- the initial file system ----------------------------------------------------------------------


def _initramfs(folder: Path, modules: Mapping[str, str], command: Collection[str]) -> bytes:
    wanted = dict.fromkeys(BASE_MODULES, "") | dict(modules)
    files = {file.name.split(".")[0].replace("-", "_"): file for file in folder.rglob("*.ko*")}
    order = list(dict.fromkeys(_with_dependencies(list(wanted), files)))
    load = "\n".join(f"insmod /modules/{name}.ko {wanted.get(name, '')}" for name in order)
    words = f"cd {shlex.quote(str(ROOT))} && exec {shlex.join(command)}"
    entries = {
        "init": INIT.format(load=load, command=shlex.quote(words)).encode(),
        "bin/busybox": _busybox(),
        **{f"modules/{name}.ko": _read_module(files[name]) for name in order},
    }
    folders = dict.fromkeys(("bin", "modules"))
    return b"".join(
        [*(_cpio(name, None) for name in folders), *(_cpio(*each) for each in entries.items())]
    ) + _cpio("TRAILER!!!", b"")


def _with_dependencies(names: Collection[str], files: Mapping[str, Path]) -> Iterator[str]:
    """Yield *names*, and before each one the modules that it needs."""
    for name in names:
        if name not in files:
            raise NoGuest(f"the kernel has no module {name}")
        found = DEPENDS.search(_read_module(files[name]))
        needed = found[1].decode().replace("-", "_").split(",") if found and found[1] else []
        yield from _with_dependencies(needed, files)
        yield name


def _read_module(file: Path) -> bytes:
    data = file.read_bytes()
    return lzma.decompress(data) if file.suffix == ".xz" else data


def _busybox() -> bytes:
    found = shutil.which("busybox")
    data = Path(found).read_bytes() if found else b""
    if not data or b"/lib64/ld-linux" in data[:4096]:
        raise NoGuest("busybox-static is not installed: apt-get install busybox-static")
    return data


def _cpio(name: str, data: bytes | None) -> bytes:
    """Return one entry of a cpio archive (newc): a folder if *data* is None, else a program.

    Source: the kernel's documentation, "initramfs buffer format".
    """
    mode = 0o40755 if data is None else 0o100755
    data = data or b""
    numbers = [0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name.encode() + b"\0"
    return b"".join(part + bytes(-len(part) % 4) for part in (head, data))
