"""Boot a seeded card under QEMU: the guest installs the node and joins a fleet. Root, minutes.

`python -m tests.tools.booted_card` makes a Debian that is laid out like Raspberry Pi OS, or takes
it from the cache. It provisions a fleet with TLS and seeds the image as an operator would. The
other nodes and mosquitto run on this machine, with the set's own files. `--cuts N` cuts the power
N times during the first boot and N times while rounds go on. `--late-mount` lets the boot partition
mount late. `--arch arm64` boots the card of another processor. `--defect NAME` builds an earlier
error in again, and succeeds if the node does not join. Prints the figures as JSON at the end.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cipherfleet_broker.running import free_port
from cipherfleet_deploy.cards.wheels import collect_wheels
from cipherfleet_node.errors import StateCorrupt
from cipherfleet_node.runtime.store import read_state
from tests.support.arm64_root import arm64_image
from tests.support.card_faults import delay_mount, install_once, look_for_key_in_folder
from tests.support.device_card import NODE, OTHERS, fill_wheelhouse, others_running
from tests.support.guest import Guest, Hardware
from tests.support.guest_image import BROKER_HOST, GuestImage, NoGuest, guest_image
from tests.support.operators_broker import (
    QueryRecorder,
    enter_namespace,
    lay_over_etc,
    operators_broker,
)
from tests.support.processor import ARM64, PROCESSORS

FLEET_NAME = "lab"
FLEET = """\
config_version: 1
fleet: lab
algorithm: {{period_s: 1.0}}
objective: {{kind: average, values: [{{field: t}}]}}
topology: {{kind: ring}}
broker: {{host: {host}, port: {port}, tls: true}}
nodes:
  - {{id: attic, sensor: {{kind: synthetic, fields: {{t: {{mean: 10}}}}}}}}
  - {{id: barn, sensor: {{kind: synthetic, fields: {{t: {{mean: 20}}}}}}}}
  - {{id: cellar, sensor: {{kind: synthetic, fields: {{t: {{mean: 60}}}}}}}}
{settings}"""
SMALL_KEYS = "crypto: {key_bits: 512, allow_weak_keys: true}\n"
PYTHON = "3.13"  # of the image
PYTHON_OF_AMD64 = (
    *("--implementation=cp", f"--python-version={PYTHON}"),
    *("--platform=manylinux2014_x86_64", "--platform=manylinux_2_28_x86_64"),
)

# Processor seconds of the emulator measure how far a boot is, however busy this machine is.
FIRST_BOOT_CPU_S = (20.0, 180.0)  # from the kernel's start to the node's first round
ROUNDS_CPU_S = (0.0, 15.0)
MORE_ROUNDS = 5  # that the node must open to count as joined
# What the console shows once a defect has had its effect.
DEFECTS = {"one-shot": "Finished late-mount.service", "key-path": "restart counter is at 3"}
QUIET_S = 240.0  # without a query after that, the node does not join


def main() -> int:
    """Boot a card; the exit code says whether the node has joined."""
    options = parse(sys.argv[1:])
    if (code := enter_namespace("tests.tools.booted_card", sys.argv[1:])) is not None:
        return code
    with tempfile.TemporaryDirectory(prefix="cipherfleet-guest-") as folder:
        try:
            print(json.dumps(Trial(options, Path(folder)).run(), indent=2))
        except (AssertionError, NoGuest) as error:
            print(f"FAILED: {error}", file=sys.stderr)
            if options.keep:
                shutil.copytree(
                    folder, options.keep, ignore=shutil.ignore_patterns("*.img", "monitor")
                )
            return 1
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--arch", choices=PROCESSORS, default="amd64", help="of the guest")
    parser.add_argument("--keys", choices=["operator", "device"], default="operator")
    parser.add_argument("--cuts", type=int, default=0, help="power cuts of either kind")
    parser.add_argument("--seed", type=int, default=1, help="of the moments of power cuts")
    parser.add_argument("--cache", type=Path, help="folder for the image (default: the user's)")
    parser.add_argument("--keep", type=Path, help="copy the logs of a failure to this folder")
    parser.add_argument("--within", type=float, default=1500, help="seconds for one boot")
    parser.add_argument("--small-keys", action="store_true", help="512 bits, to save time")
    parser.add_argument("--late-mount", action="store_true", help="the boot partition mounts late")
    parser.add_argument(
        "--defect",
        choices=DEFECTS,
        help="one-shot: cloud-init installs the node itself, once, and the boot partition mounts "
        "late; key-path: the node does not look for its keys among systemd's credentials",
    )
    return parser.parse_args(arguments)


class Trial:
    """One card, its fleet, and what was measured."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.processor = PROCESSORS[options.arch]
        self.home, self.nodes = folder / "set", folder / "nodes"
        self.where = BROKER_HOST, free_port()
        self.random = random.Random(options.seed)
        self.recorder = QueryRecorder()
        self.figures: dict[str, Any] = {"arch": options.arch, "keys": options.keys}
        self.began = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Return the figures. Raises AssertionError if the node does not do what it must."""
        lay_over_etc(self.folder / "etc", f"127.0.0.1 {BROKER_HOST}")
        image = self.prepare()
        bundles = {name: self.nodes / name for name in OTHERS}
        with (
            operators_broker(self.home, self.where, self.folder),
            self.recorder.listening(FLEET_NAME, self.home, self.where),
            others_running(bundles),
            Guest(self.hardware(image), self.folder) as guest,
        ):
            if self.options.defect:
                self.fail_to_join(guest)
                return self.figures
            self.live(guest)
            self.figures["cpu_s of the emulator"] = round(guest.cpu_s, 1)
        self.look_at(image)
        self.figures |= {
            "queries recorded": self.recorder.count,
            "wall_s": round(time.monotonic() - self.began),
        }
        return self.figures

    # -- before the boot --------------------------------------------------------------------------

    def prepare(self) -> GuestImage:
        """Provision the fleet and seed the card, with the commands of docs/how-to/devices.md."""
        self.step("image")
        make_image = arm64_image if self.processor is ARM64 else guest_image
        image = make_image(self.options.cache).copy(self.folder)
        self.step("provision")
        settings = SMALL_KEYS if self.options.small_keys else ""
        text = FLEET.format(host=self.where[0], port=self.where[1], settings=settings)
        file = self.folder / "fleet.yaml"
        file.write_text(text)
        self.provision("bundle", file, self.home, "--keys", self.options.keys)
        shutil.copytree(self.home / "current/nodes", self.nodes)
        self.step("wheels")
        wheels = self.collect_wheels()
        if self.options.defect == "key-path":
            look_for_key_in_folder(wheels)
        card = self.provision("seed", NODE, self.home, "--image", image.disk, "--wheels", wheels)
        if self.options.late_mount or self.options.defect == "one-shot":
            delay_mount(image)
        if self.options.defect == "one-shot":
            install_once(image)
        self.figures |= {
            "image_mib": round(image.disk.stat().st_blocks * 512 / 2**20),
            "card": {"files": card["files"], "mib": round(card["bytes"] / 2**20, 1)},
        }
        return image

    def collect_wheels(self) -> Path:
        """Collect them as `provision seed --python` does, which knows the wheels of boards only."""
        if self.processor is ARM64:
            return collect_wheels(self.home, PYTHON, self.step)
        return fill_wheelhouse(self.folder / "wheels", PYTHON_OF_AMD64)

    def provision(self, *arguments: str | Path) -> dict[str, Any]:
        command = [sys.executable, "-m", "cipherfleet_deploy", "provision", *arguments, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"provision {arguments}: {done.stdout}{done.stderr}"
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def hardware(self, image: GuestImage) -> Hardware:
        line = (image.boot.read("cmdline.txt") or b"").decode().strip() + " systemd.show_status=no"
        devices = [
            *("-drive", f"file={image.disk},format=raw,if=virtio"),
            *("-nic", "user,model=virtio-net-pci", "-device", "virtio-rng-pci"),
        ]
        return Hardware(image.kernel, image.initrd, line, devices, processor=self.processor)

    # -- the guest's life -------------------------------------------------------------------------

    def live(self, guest: Guest) -> None:
        for number in range(self.options.cuts):
            guest.switch_on()
            self.cut_after(guest, FIRST_BOOT_CPU_S, f"first boot, cut {number + 1}")
        guest.switch_on()
        self.step("switched on")
        if self.options.keys == "device":
            self.enrol(guest)
        self.await_rounds(guest, "joined")
        for number in range(self.options.cuts):
            self.cut_after(guest, ROUNDS_CPU_S, f"rounds, cut {number + 1}")
            guest.switch_on()
            self.await_rounds(guest, f"joined again {number + 1}")
        assert guest.console.count("Started cipherfleet-node") <= 1, (
            "the service failed and restarted"
        )
        guest.switch_off(within_s=600)
        self.step("switched off")

    def fail_to_join(self, guest: Guest) -> None:
        """Boot a card with a defect: the node must not send a query."""
        guest.switch_on()
        sign = DEFECTS[self.options.defect]
        guest.wait(lambda: sign in guest.console, f"the sign {sign!r}", self.options.within)
        self.note(guest, f"defect {self.options.defect} had its effect")
        until = time.monotonic() + QUIET_S
        guest.wait(lambda: time.monotonic() > until, "quiet", 2 * QUIET_S)
        assert self.recorder.latest(NODE) < 0, "the node joins in spite of the defect"
        self.figures["joined"] = False

    def cut_after(self, guest: Guest, cpu_s: tuple[float, float], what: str) -> None:
        """Cut the power at a random moment within the next processor seconds."""
        moment = guest.present_cpu_s + self.random.uniform(*cpu_s)
        guest.wait(lambda: guest.present_cpu_s >= moment, what, self.options.within)
        last = ([line for line in guest.console.splitlines() if line.strip()] or [""])[-1]
        self.note(guest, what)
        guest.cut_power()
        print(f"         after: {last[:100]}", flush=True)
        self.recorder.check()

    def enrol(self, guest: Guest) -> None:
        guest.wait(lambda: "with fingerprint" in guest.console, "the claim", self.options.within)
        self.note(guest, "claims keys")
        summary = self.provision("enroll", self.home, "--auto", "--timeout", "120")
        assert (summary["pending"], summary["awaited"]) == ([], []), summary
        self.note(guest, "enrolled")

    def await_rounds(self, guest: Guest, what: str) -> None:
        """Wait until the guest opens rounds, and its neighbours close rounds with its answers.

        The estimates must agree. Their value is printed and not checked: whatever a node loses in
        the middle of a round changes the mean of an average for good.
        """
        before = {name: self.recorder.latest(name) for name in (NODE, *OTHERS)}

        def has_opened(rounds: int) -> bool:
            return self.recorder.latest(NODE) >= before[NODE] + rounds

        guest.wait(lambda: has_opened(1), "a query of the guest", self.options.within)
        self.note(guest, f"{what}: first query")
        guest.wait(
            lambda: (
                has_opened(MORE_ROUNDS)
                and all(has_closed_full_round(self.nodes / name, before[name]) for name in OTHERS)
                and agree([self.nodes / name for name in OTHERS])
            ),
            what,
            self.options.within,
        )
        self.note(guest, what)
        self.figures["answer"] = estimate_of(self.nodes / OTHERS[0])
        self.recorder.check()

    # -- after it ---------------------------------------------------------------------------------

    def look_at(self, image: GuestImage) -> None:
        """The card carries no bundle any more, and no key of the node is half written."""
        log = (image.boot.read("cipherfleet/first-boot.log") or b"").decode()
        assert log.rstrip().endswith("done"), log
        for name in ("bundle.tar.gz", "pending"):
            assert image.boot.read(f"cipherfleet/{name}") is None, f"{name} is still on the card"
        etc, state = f"etc/cipherfleet/{NODE}", f"var/lib/cipherfleet/{NODE}"
        keys = [
            f"{folder}/{name}"
            for folder in (etc, f"{state}/keys", f"{state}/tls")
            for name in image.names_in_root(folder)
        ]
        assert any(name.endswith("paillier.json") for name in keys), keys
        for name in keys:
            data = image.read_root(name) or b""
            if name.endswith(".json"):
                json.loads(data)
            elif not name.endswith("/bundle"):
                assert data.rstrip().endswith(b"-----"), f"{name} is not complete"
        self.step(f"the bundle is gone from the card; {len(keys)} files of keys are complete")

    def step(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    def note(self, guest: Guest, what: str) -> None:
        """Print and keep the guest's time and processor seconds of this boot."""
        seconds = {"guest_s": round(guest.on_for_s), "cpu_s": round(guest.present_cpu_s, 1)}
        self.figures[what] = seconds
        self.step(f"{what}: {seconds['guest_s']} s after power-on, {seconds['cpu_s']} s of CPU")


def has_closed_full_round(node: Path, after: int) -> bool:
    """Whether *node* has closed a round beyond *after* with the answers of all its neighbours."""
    file = node / "logs" / "spans.jsonl"
    lines = file.read_text().split("\n")[-100:-1] if file.exists() else []
    rounds = [span for span in map(json.loads, lines) if span["phase"] == "round"]
    return any(span["round"] > after and span["silent"] == 0 for span in rounds)


def estimate_of(node: Path) -> float | None:
    """Return the estimate of *node*, None before the first or while the node replaces its file."""
    with suppress(StateCorrupt):
        state = read_state(node)
        if state is not None and state.estimate is not None:
            return float(state.estimate[0])
    return None


def agree(nodes: Sequence[Path]) -> bool:
    """Whether the estimates of *nodes* differ by less than a thousandth."""
    estimates = [estimate for node in nodes if (estimate := estimate_of(node)) is not None]
    return len(estimates) == len(nodes) and max(estimates) - min(estimates) < 1e-3


if __name__ == "__main__":
    sys.exit(main())
