"""Flower's federated averaging, plain and with SecAgg+, in an environment of its own.

Deployed: a SuperLink and one SuperNode per node, as users run them on several machines, without TLS
on the loopback. Simulated: Flower's simulation runtime, which needs ray. Both run flower_app.py, by
`flwr run`. This file imports nothing of Flower. It is long because all that depends on Flower's
commands, files and settings is here.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from cipherfleet_analysis.random_choices import Array
from cipherfleet_broker.die_with_parent import die_with_parent
from cipherfleet_broker.running import free_port
from cipherfleet_deploy.local.results import relative_error, stays_below

from .process_tree import cpu_seconds, end_all
from .relay import CountingRelay
from .result import LEVELS, Course, MethodResult, costs
from .scene import QuadraticProblem, Scene
from .with_phe import simulate_descent

TESTED_VERSION = "1.42.0"
APP = Path(__file__).parent / "flower_app.py"
SAMPLE_EVERY_S = 0.2
STARTS_WITHIN_S = 120.0
STALLED_AFTER_S = 1800.0  # each of a round's four exchanges may take minutes on a busy machine
CLIPPING_RANGE = 8.0  # Flower's default
MODULUS_BITS = 32  # Flower's default, and the most that it accepts
SIMULATED_MASKED_ROUNDS = 300  # far beyond the round where the quantiser stops the descent

_PROJECT = """\
[project]
name = "accuracy"
version = "1.0.0"
description = "Federated averaging of one linear model"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "cipherfleet"

[tool.flwr.app.components]
serverapp = "flower_app:server"
clientapp = "flower_app:{client}"

[tool.flwr.app.config]
task = "{task}"
log = "{log}"
"""
_CONNECTION = """\
[superlink]
default = "benchmark"

[superlink.benchmark]
address = "127.0.0.1:{port}"
insecure = true
"""
_SIMULATION = """\
options.num-supernodes = {nodes}
options.backend.client-resources.num-cpus = 1
"""


class Masks(msgspec.Struct, frozen=True):
    """The settings of SecAgg+."""

    shares: int | float  # of each key; 1.0 stands for as many as there are clients
    threshold: float  # part of the shares that opens a key
    levels: int
    clipping_range: float


class FlowerTask(msgspec.Struct, frozen=True, kw_only=True):
    """What the app reads: the functions of all nodes and the settings."""

    hessians: list[list[list[float]]]
    offsets: list[list[float]]
    step: float
    rounds: int
    masks: Masks | None


class FlowerRound(msgspec.Struct, frozen=True, kw_only=True):
    """The state after a round, as the app's server writes it; round 0 is the start."""

    round: int
    model: list[float]
    reply_bytes: int  # of all serialised replies of clients since the start
    at: float  # monotonic seconds


@dataclass(frozen=True)
class Sample:
    """What all processes have used and sent at a time."""

    at: float  # monotonic seconds
    cpu_s: float
    sent: int


@dataclass(frozen=True)
class FlowerRun:
    """A run to its last round; *samples* follow each other every SAMPLE_EVERY_S or so."""

    began: float
    rounds: Sequence[FlowerRound]  # from the first on
    samples: Sequence[Sample]

    def course(self, optimum: Array, *, is_relayed: bool) -> Course:
        """Return the costs after each round: those of the first sample at its end or later."""
        times = [each.at for each in self.samples]
        seen = [self.samples[bisect_left(times, each.at)] for each in self.rounds]
        replies = [float(each.reply_bytes) for each in self.rounds]
        return Course(
            errors=[relative_error(np.array([each.model]), optimum) for each in self.rounds],
            sent=[float(each.sent) for each in seen] if is_relayed else replies,
            cpu_s=[each.cpu_s for each in seen],
            wall_s=[each.at - self.began for each in self.rounds],
        )


@dataclass(frozen=True)
class FlowerMethod:
    """Federated averaging by Flower; the server knows the model after each round."""

    name: str
    title: str
    is_masked: bool
    is_deployed: bool
    is_available: bool = True  # to_accuracy.py chooses it only where its environment is given

    @property
    def needs(self) -> str:
        """The package that the environment must have."""
        return "flwr" if self.is_deployed else "ray"

    @property
    def requirement(self) -> str:
        """What pip installs for it."""
        return (
            f"flwr=={TESTED_VERSION}" if self.is_deployed else f"flwr[simulation]=={TESTED_VERSION}"
        )

    def measure(self, scene: Scene) -> MethodResult:
        """Run the rounds, and return the costs."""
        problem = scene.problem
        masks = masks_for(problem.nodes) if self.is_masked else None
        simulated = (
            simulate_descent(problem)
            if masks is None
            else simulate_masked(problem, masks, SIMULATED_MASKED_ROUNDS)
        )
        run = self._run(scene, masks, self._rounds(scene, simulated))
        course = run.course(problem.optimum, is_relayed=self.is_deployed)
        return MethodResult(
            name=self.name,
            title=self.title,
            settings=self._settings(scene, masks, run),
            hides=(
                "single updates; the server learns their sum, and so the model"
                if self.is_masked
                else "nothing: the server sees every node's update in clear, and the model"
            ),
            processes=(
                "a SuperLink, a SuperNode per node, and a new process per message"
                if self.is_deployed
                else "Flower's simulation: a process per core in place of nodes, no network"
            ),
            rounds_run=course.rounds,
            last_error=course.errors[-1],
            costs=costs(course, simulated),
        )

    def _rounds(self, scene: Scene, simulated: Sequence[float]) -> int:
        """Return the rounds to run: in the simulation as many as the last level needs."""
        if self.is_deployed:
            return scene.flower_rounds
        return (stays_below(simulated, float(LEVELS[-1])) or len(simulated)) + 3

    def _settings(self, scene: Scene, masks: Masks | None, run: FlowerRun) -> str:
        version = installed_version(_interpreter(scene), "flwr")
        parts = [f"flwr {version}", f"one local step of {scene.problem.best_step:.3g} a round"]
        if masks is not None:
            shares = scene.nodes if masks.shares == 1.0 else masks.shares
            levels = f"2^{masks.levels.bit_length() - 1} levels in +-{masks.clipping_range:g}"
            parts.append(f"{shares} shares, {levels}")
        replies = run.rounds[-1].reply_bytes / len(run.rounds) / scene.nodes / 1000
        if self.is_deployed:
            parts.append("no TLS; bytes are those of the nodes' HTTP requests")
            parts.append(f"the serialised replies alone are {replies:.1f} kB per node and round")
        else:
            parts.append("bytes are those of the serialised replies")
        return "; ".join(parts)

    def _run(self, scene: Scene, masks: Masks | None, rounds: int) -> FlowerRun:
        problem, folder = scene.problem, scene.folder / self.name
        task = FlowerTask(
            hessians=problem.hessians.tolist(),
            offsets=problem.offsets.tolist(),
            step=problem.best_step,
            rounds=rounds,
            masks=masks,
        )
        app = write_app(folder, task)
        port = free_port()
        began, used = time.monotonic(), _reaped_cpu_s()
        with ExitStack() as stack:
            relay = stack.enter_context(CountingRelay(port))
            fleet = FlowerFleet(_interpreter(scene).parent, folder)
            stack.callback(fleet.stop)
            connection = _CONNECTION.format(port=port)
            if self.is_deployed:
                fleet.start(_superlink(port))
                for node in range(scene.nodes):
                    fleet.start(_supernode(relay.port, node, scene.nodes))
            else:
                fleet.start([*_superlink(port), "--simulation"])
                connection += _SIMULATION.format(nodes=scene.nodes)
            fleet.submit(app, connection, port)
            submit_cpu_s = _reaped_cpu_s() - used
            samples = fleet.watch(app / "log.jsonl", rounds, relay, submit_cpu_s)
        return FlowerRun(began, read_log(app / "log.jsonl"), samples)


FLOWER_METHODS = (
    FlowerMethod("flower", "Flower, plain, deployed", is_masked=False, is_deployed=True),
    FlowerMethod(
        "flower-secagg", "Flower with SecAgg+, deployed", is_masked=True, is_deployed=True
    ),
    FlowerMethod(
        "flower-simulated", "Flower, plain, simulated", is_masked=False, is_deployed=False
    ),
    FlowerMethod(
        "flower-secagg-simulated",
        "Flower with SecAgg+, simulated",
        is_masked=True,
        is_deployed=False,
    ),
)


# -- SecAgg+ --------------------------------------------------------------------------------------


def masks_for(clients: int) -> Masks:
    """Return settings that are fair to SecAgg+: few shares, and the finest quantiser there is.

    Five shares are a client's own and those of four neighbours, as in the fleet's graph. The levels
    are the largest power of two whose sum over all clients is below the modulus. Flower's default,
    2^22, is coarser.
    """
    return Masks(
        shares=5 if clients > 5 else 1.0,
        threshold=0.6,
        levels=1 << (MODULUS_BITS - clients.bit_length()),
        clipping_range=CLIPPING_RANGE,
    )


def simulate_masked(problem: QuadraticProblem, masks: Masks, rounds: int) -> list[float]:
    """Return the errors of the same descent with the quantiser of SecAgg+ (random rounding)."""
    rng, per_level = np.random.default_rng(1), 2 * masks.clipping_range / masks.levels
    x, errors = np.zeros(problem.dimension), []
    for _ in range(rounds):
        each = np.tile(x, (problem.nodes, 1))
        models = each - problem.best_step * problem.gradients(each)
        clipped = np.clip(models, -masks.clipping_range, masks.clipping_range)
        x = (per_level * np.floor(clipped / per_level + rng.random(models.shape))).mean(axis=0)
        errors.append(relative_error(x[None], problem.optimum))
    return errors


# -- the files of the app -------------------------------------------------------------------------


def write_app(folder: Path, task: FlowerTask) -> Path:
    """Write the app and its task below *folder*, and return the folder of the app."""
    app = folder / "app"
    app.mkdir(parents=True)
    shutil.copy(APP, app)
    (app / "task.json").write_bytes(msgspec.json.encode(task))
    client = "client" if task.masks is None else "masked_client"
    text = _PROJECT.format(client=client, task=app / "task.json", log=app / "log.jsonl")
    (app / "pyproject.toml").write_text(text, encoding="utf-8")
    return app


def read_log(log: Path) -> list[FlowerRound]:
    """Return the rounds of *log*, without round 0. Raises ValueError if one is missing."""
    lines = [msgspec.json.decode(line, type=FlowerRound) for line in log.read_bytes().splitlines()]
    if [each.round for each in lines] != list(range(len(lines))):
        raise ValueError(f"{log}: rounds {[each.round for each in lines]}, must be 0, 1, 2, ...")
    return lines[1:]


# -- the other environment ------------------------------------------------------------------------


def installed_version(python: Path, package: str) -> str | None:
    """Return the version of *package* in the environment of *python*, or None without it."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError:  # no such file, or not executable
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _interpreter(scene: Scene) -> Path:
    assert scene.flower_python is not None, "to_accuracy.py chooses no method of Flower without it"
    return scene.flower_python


def _reaped_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _superlink(port: int) -> list[str]:
    return [
        "flower-superlink",
        "--insecure",
        *("--host", "127.0.0.1", "--port", f"{port}"),
        "--disable-runtime-dependency-installation",
    ]


def _supernode(port: int, node: int, nodes: int) -> list[str]:
    return [
        "flower-supernode",
        "--insecure",
        *("--superlink", f"127.0.0.1:{port}"),
        *("--host", "127.0.0.1", "--port", f"{free_port()}"),
        *("--node-config", f"partition-id={node} num-partitions={nodes}"),
    ]


class FlowerFleet:
    """Flower's processes in the environment whose commands are in *commands*."""

    def __init__(self, commands: Path, folder: Path) -> None:
        self._commands = commands
        self._folder = folder
        self._home = folder / "home"
        self._home.mkdir(parents=True)
        self._running: list[subprocess.Popen[bytes]] = []

    @property
    def _environment(self) -> Mapping[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "PATH": f"{self._commands}{os.pathsep}{os.environ.get('PATH', '')}",
            "FLWR_HOME": str(self._home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def start(self, command: Sequence[str]) -> None:
        """Start a *command* of Flower, whose output goes to a file."""
        whole = die_with_parent([str(self._commands / command[0]), *command[1:]])
        with self._log(len(self._running)).open("wb") as log:
            self._running.append(
                subprocess.Popen(whole, env=self._environment, stdout=log, stderr=log)
            )

    def submit(self, app: Path, connection: str, port: int) -> None:
        """Wait for the SuperLink at *port*, and submit *app* by `flwr run`."""
        (self._home / "config.toml").write_text(connection, encoding="utf-8")
        until = time.monotonic() + STARTS_WITHIN_S
        while not _is_open(port):
            self._check(time.monotonic() < until, "the SuperLink does not listen")
            time.sleep(0.1)
        done = subprocess.run(
            [self._commands / "flwr", "run", app],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        self._check(done.returncode == 0, f"flwr run failed: {done.stdout}{done.stderr}")

    def watch(
        self, log: Path, rounds: int, relay: CountingRelay, submit_cpu_s: float
    ) -> list[Sample]:
        """Sample until the *log* has all *rounds*; *submit_cpu_s* was used before."""
        samples: list[Sample] = []
        progress, seen = time.monotonic(), 0
        while True:
            lines = log.read_bytes().count(b"\n") if log.exists() else 0
            cpu_s = submit_cpu_s + cpu_seconds([each.pid for each in self._running])
            highest = max(cpu_s, samples[-1].cpu_s if samples else 0.0)  # never falls
            samples.append(Sample(time.monotonic(), highest, relay.sent))
            if lines > rounds:  # round 0 is a line, too
                return samples
            if lines > seen:
                progress, seen = time.monotonic(), lines
            if (failure := log.with_suffix(".failure")).exists():
                raise RuntimeError(f"the app has failed:\n{failure.read_text()}")
            is_moving = time.monotonic() - progress < STALLED_AFTER_S
            self._check(is_moving, f"no round for {STALLED_AFTER_S:.0f} s")
            time.sleep(SAMPLE_EVERY_S)

    def stop(self) -> None:
        """End all processes."""
        end_all(self._running)

    def _check(self, is_well: bool, problem: str) -> None:
        ended = [k for k, each in enumerate(self._running) if each.poll() is not None]
        if is_well and not ended:
            return
        shown = self._log(ended[0] if ended else 0)
        what = f"process {ended[0]} of Flower has ended" if ended else problem
        raise RuntimeError(f"{what}; end of its output:\n{shown.read_text()[-2000:]}")

    def _log(self, number: int) -> Path:
        return self._folder / f"process-{number}.log"


def _is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True
