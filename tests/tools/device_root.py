"""Install a card's contents in a booted Debian root: about two minutes, as root.

`python -m tests.tools.device_root` makes a clean Debian (mmdebstrap) with no pip and no network
wheels, seeds a card, runs the card's script in it, and boots it (systemd-nspawn): the real
unit under the real systemd joins a fleet of this machine, is started again when it hangs, is
updated, and a version that does not start is taken back by itself. With
`--tls` the devices speak TLS.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cipherfleet_broker import start_broker
from cipherfleet_node.runtime.store import read_state
from cipherfleet_provisioning.ledger import Maker
from tests.support.device_card import (
    NODE,
    fill_wheelhouse,
    has_joined,
    make_card,
    others_running,
    plain_site,
    secured_site,
)

NSPAWN = ["systemd-nspawn", "-q", "--register=no", "--keep-unit", "-D"]
UNIT = "cipherfleet-node"


def main() -> int:
    """Run it all; the exit code says how it went."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--root", type=Path, help="a tar archive of a clean Debian to use instead")
    options.add_argument(
        "--tls", choices=["operator", "device"], help="with TLS; the choice says who makes the keys"
    )
    given = options.parse_args()
    needed = ["systemd-nspawn", "nsenter", *(["mmdebstrap"] if given.root is None else [])]
    missing = [tool for tool in needed if shutil.which(tool) is None]
    if missing:
        sys.exit(f"needs {', '.join(missing)}: apt-get install mmdebstrap systemd-container")
    with tempfile.TemporaryDirectory(prefix="cipherfleet-device-") as folder:
        show(Path(folder), given.root, given.tls)
    return 0


def show(folder: Path, archive: Path | None, maker: Maker | None) -> None:
    """One device's life in *folder*."""
    root = folder / "root"
    step("a clean Debian")
    make_root(root, archive or folder / "root.tar")
    step("wheels")
    wheels = fill_wheelhouse(folder / "wheels")
    site = secured_site(folder, maker) if maker else plain_site(folder)
    with start_broker("embedded", site.port, site.security):
        step("the card's script, before systemd runs")
        make_card(root / "boot/firmware", site.nodes, wheels)
        run([*NSPAWN, str(root), "sh", "/boot/firmware/cipherfleet/first-boot.sh"])
        shorten_the_watchdog(root)
        state = root / "var/lib/cipherfleet" / NODE
        with others_running(site.bundles), booted(root) as device:
            step("booted")
            if maker == "device":
                site.enrol()
                step("enrolled")
            wait_for(lambda: has_joined(state, 5), "the node joins")
            words = service(device, "User", "NRestarts", "ActiveState", "MemoryCurrent")
            step(f"joined: {words}")
            assert "NRestarts=0" in words
            hang(device)
            update(root, device, wheels, folder)
            saved = read_state(state)
            assert saved is not None
            wait_for(lambda: has_joined(state, saved.round + 10), "the node goes on")
            step(f"goes on: {service(device, 'ActiveState', 'NRestarts')}")


def shorten_the_watchdog(root: Path) -> None:
    """A drop-in, as an operator would write one: nobody waits a minute here."""
    place = root / f"etc/systemd/system/{UNIT}.service.d"
    place.mkdir()
    (place / "trial.conf").write_text("[Service]\nWatchdogSec=8\nRestartSec=1\n")


def hang(device: int) -> None:
    """A node that stands still is ended and started again."""
    process = service(device, "MainPID").removeprefix("MainPID=")
    run(inside(device, "sh", "-c", f"kill -STOP {process}"))
    wait_for(lambda: "NRestarts=1" in service(device, "NRestarts"), "the watchdog ends it")
    step(f"hung, and was started again: {service(device, 'NRestarts', 'ActiveState')}")


def update(root: Path, device: int, wheels: Path, folder: Path) -> None:
    """A version that runs, and one that starts but never gets ready."""
    versions = root / "opt/cipherfleet/versions"
    for number, breaks in (("0.1.1", False), ("0.1.2", True)):
        place = root / "root" / number
        shutil.copytree(wheels, place)
        renumber(place, number, breaks=breaks, folder=folder)
        command = ["env", "SETTLED_S=3", "sh", "/opt/cipherfleet/update.sh", f"/root/{number}"]
        done = subprocess.run(inside(device, *command), check=False)
        current = (versions.parent / "current").readlink().name
        step(f"update to {number}: exit code {done.returncode}, runs {current}")
        assert current.startswith("0.1.1-")
        assert (done.returncode != 0) is breaks


def renumber(wheels: Path, number: str, *, breaks: bool, folder: Path) -> None:
    """Make the wheel of cipherfleet in *wheels* one of another version."""
    (good,) = wheels.glob("cipherfleet-*.whl")
    unpacked = folder / number
    with zipfile.ZipFile(good) as old:
        old.extractall(unpacked)
    info = next(unpacked.glob("cipherfleet-*.dist-info"))
    metadata = (info / "METADATA").read_text()
    before = good.name.split("-")[1]
    (info / "METADATA").write_text(
        metadata.replace(f"\nVersion: {before}\n", f"\nVersion: {number}\n", 1)
    )
    fresh = info.rename(info.with_name(f"cipherfleet-{number}.dist-info"))
    if breaks:
        daemon = unpacked / "cipherfleet_node/runtime/daemon.py"
        daemon.write_text("raise SystemExit(1)\n")
    # Sums of files that changed; pip takes a list without sums.
    names = [str(file.relative_to(unpacked)) for file in unpacked.rglob("*") if file.is_file()]
    (fresh / "RECORD").write_text("".join(f"{name},,\n" for name in names))
    good.unlink()
    with zipfile.ZipFile(wheels / f"cipherfleet-{number}-py3-none-any.whl", "w") as new:
        for name in names:
            new.write(unpacked / name, name)


def make_root(root: Path, archive: Path, suite: str = "bookworm", more: str = "") -> None:
    """A Debian with Python and systemd, the packages *more*, and nothing else that we need."""
    if not archive.exists():
        parts = f"--include=python3,systemd{more and ','}{more}"
        run(["mmdebstrap", "--quiet", "--variant=minbase", parts, suite, str(archive)])
    root.mkdir()
    run(["tar", "-C", str(root), "-xf", str(archive)])


@contextmanager
def booted(root: Path) -> Iterator[int]:
    """The device's first process, while it runs."""
    with (root.parent / "boot.log").open("wb") as log:
        machine = subprocess.Popen(
            [*NSPAWN, str(root), "-b"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            yield wait_for(lambda: first_process(machine.pid), "the device boots")
        finally:
            machine.send_signal(signal.SIGTERM)
            try:
                machine.wait(30)
            except subprocess.TimeoutExpired:
                machine.kill()
                machine.wait()


def first_process(pid: int) -> int:
    """The systemd that the container *pid* has started, 0 if there is none yet."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(FileNotFoundError):
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return int(child)
    return 0


def inside(device: int, *command: str) -> list[str]:
    """*command*, run in the device whose first process is *device*."""
    return ["nsenter", "-t", str(device), "-m", "-u", "-i", "-p", "-r", "-w", *command]


def service(device: int, *properties: str) -> str:
    """What systemd tells of the node's service."""
    names = [f"--property={name}" for name in properties]
    done = subprocess.run(
        inside(device, "systemctl", "show", UNIT, *names),
        capture_output=True,
        text=True,
        check=True,
    )
    return ", ".join(done.stdout.split())


def wait_for(condition: Callable[[], int], what: str, within_s: float = 90.0) -> int:
    """The result of *condition*, once it is true."""
    deadline = time.monotonic() + within_s
    while not (result := condition()):
        if time.monotonic() > deadline:
            sys.exit(f"waited too long until {what}")
        time.sleep(0.2)
    return result


def run(command: list[str]) -> None:
    """Run *command*; its failure ends us."""
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def step(text: str) -> None:
    """Say how far we are."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
