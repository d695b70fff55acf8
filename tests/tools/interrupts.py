"""Press Ctrl-C at many moments of `run`, `demo`, `fleet up` and `bench crypto`.

A terminal sends SIGINT to all processes in the foreground, and so does this: the command runs in a
session of its own. At every other moment it presses a second time, 50 ms later. Time counts from
where the command can act at all, which is when it has a handler for SIGTERM: before, the
interpreter starts, and ends with a traceback of its own.

Wanted each time: exit code 130, no traceback, no process that is left, nothing in the temporary
folder, no container and no network. `run --count 40` takes three minutes, `fleet up` ten.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from cipherfleet_deploy.containers.engine import FLEET_LABEL, ContainerEngine
from tests.support.docker_engine import built_image, running_engine

COMMAND = (sys.executable, "-m", "cipherfleet_deploy")
MARK = "CIPHERFLEET_INTERRUPTED"  # in the environment of all that a command starts
FIRST_S = 0.1
AGAIN_AFTER_S = 0.05
READY_WITHIN_S, END_WITHIN_S, GONE_WITHIN_S = 30.0, 60.0, 2.0
ROUNDS = 1_000_000
FLEET = """\
config_version: 1
fleet: interrupted{token}
crypto: {{key_bits: 512, allow_weak_keys: true}}
algorithm: {{rounds: {rounds}}}
objective: {{kind: average, values: [{{field: t}}]}}
topology: {{kind: ring}}
nodes:
  - {{each: 4, id: "n{{n}}", sensor: {{kind: synthetic, fields: {{t: {{mean: 20}}}}}}}}
"""

Moment = Callable[[subprocess.Popen[str]], None]


@dataclass(frozen=True)
class Pressed:
    """What a command did when it was interrupted."""

    exit_code: int
    stderr: str
    processes: list[str]  # that are left
    files: list[str]  # in the temporary folder

    @property
    def faults(self) -> list[str]:
        """What is not as it should be."""
        found = [f"left {each}" for each in self.processes + self.files]
        if self.exit_code != 130:
            found.append(f"exit code {self.exit_code}")
        found += [word for word in ("Traceback", "Exception ignored") if word in self.stderr]
        if self.stderr.rstrip().rpartition("\n")[2] != "cipherfleet: interrupted":
            found.append("the last line is not `interrupted`")
        return found


def press(words: Sequence[object], folder: Path, moment: Moment, *, again: bool = False) -> Pressed:
    """Run `cipherfleet` with *words* in *folder*, and press Ctrl-C when *moment* returns."""
    temporary, token = folder / "tmp", secrets.token_hex(8)
    temporary.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary), MARK: token}
    with (folder / "stderr").open("w+") as stderr:
        process = subprocess.Popen(
            [*COMMAND, *map(str, words)], cwd=folder, env=environment, text=True,
            stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True,
        )  # fmt: skip
        try:
            until(lambda: catches_sigterm(process.pid), process)
            moment(process)
            os.killpg(process.pid, signal.SIGINT)
            if again:
                time.sleep(AGAIN_AFTER_S)
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGINT)
            code = process.wait(END_WITHIN_S)
        finally:
            process.kill()
            process.wait()
        stderr.seek(0)
        said = stderr.read()
    deadline = time.monotonic() + GONE_WITHIN_S
    while (left := [*marked(token)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    for each in left:
        each.kill()
    names = [" ".join(each.info["cmdline"] or ())[:100] for each in left]
    return Pressed(code, said, names, sorted(path.name for path in temporary.iterdir()))


def until(
    condition: Callable[[], bool],
    process: subprocess.Popen[str],
    within_s: float = READY_WITHIN_S,
) -> None:
    """Return when *condition* holds, or the process has ended."""
    deadline = time.monotonic() + within_s
    while process.poll() is None and not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.001)


def catches_sigterm(pid: int) -> bool:
    """Whether the process has a handler of its own for SIGTERM, which Python by itself has not."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next((line for line in status.splitlines() if line.startswith("SigCgt")), "SigCgt: 0")
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def marked(token: str) -> Iterator[psutil.Process]:
    """The processes that descend from the command with this token, wherever they hang now."""
    for process in psutil.process_iter(["cmdline", "environ", "status"]):
        has = (process.info["environ"] or {}).get(MARK) == token
        if has and process.info["status"] != psutil.STATUS_ZOMBIE:
            yield process


def after(seconds: float) -> Moment:
    """So long after the command can act."""

    def wait(process: subprocess.Popen[str]) -> None:
        began = time.monotonic()
        until(lambda: time.monotonic() - began >= seconds, process, 2 * seconds)

    return wait


def left_in(engine: ContainerEngine, fleet: str) -> list[str]:
    """Names of all that the engine still has of *fleet*."""
    of_it = {"label": f"{FLEET_LABEL}={fleet}"}
    containers = engine.client.api.containers(all=True, filters=of_it)
    networks = engine.client.networks.list(filters=of_it)
    return [each["Names"][0] for each in containers] + [each.name for each in networks]


def main() -> int:
    """Each command at each moment; a line for each, exit code 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=40, help="moments of each command")
    parser.add_argument("--only", choices=["run", "demo", "bench", "fleet"], action="append")
    parser.add_argument("--last", type=float, default=8.0, help="seconds up to the last of them")
    options = parser.parse_args()
    step = (options.last - FIRST_S) / max(1, options.count - 1)
    moments = [FIRST_S + step * number for number in range(options.count)]
    bad = 0
    for name in options.only or ["run", "demo", "bench", "fleet"]:
        try:
            bad += tried(name, moments)
        except pytest.skip.Exception as reason:
            print(f"{name}: SKIPPED: {reason}")
    print("all as it should be" if not bad else f"{bad} times not as it should be")
    return min(bad, 1)


def tried(name: str, moments: Sequence[float]) -> int:
    """How often the command called *name* did not end as it should."""
    bad = 0
    with ExitStack() as stack:
        engine = image = None
        if name == "fleet":
            engine = stack.enter_context(running_engine())
            shared = stack.enter_context(tempfile.TemporaryDirectory())
            image = built_image(engine, Path(shared))
        for number, seconds in enumerate(moments):
            with tempfile.TemporaryDirectory(prefix="cipherfleet-interrupts-") as place:
                folder, token = Path(place), secrets.token_hex(4)
                (folder / "fleet.yaml").write_text(FLEET.format(token=token, rounds=ROUNDS))
                words: dict[str, list[object]] = {
                    "run": ["run", "fleet.yaml"],
                    "demo": ["demo", "--nodes", 4, "--rounds", ROUNDS],
                    "bench": ["bench", "crypto"],
                    "fleet": ["fleet", "up", "fleet.yaml", "--wait", "--image", image],
                }
                came = press(words[name], folder, after(seconds), again=number % 2 == 1)
                faults = came.faults
                if engine is not None:
                    faults += [f"left {each}" for each in left_in(engine, f"interrupted{token}")]
                results = len([*folder.glob("cipherfleet-out/*/result.json")])
                print(
                    f"{name} {seconds:.2f} s: {', '.join(faults) or 'ok'}, results {results}",
                    flush=True,
                )
                if faults:
                    print(came.stderr[-4000:], flush=True)
                bad += bool(faults)
    return bad


if __name__ == "__main__":
    sys.exit(main())
