"""Rounds of a real fleet whose nodes are spread over the bench, with a real broker."""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from cipherfleet_analysis.cost.board_card import Calibration
from cipherfleet_broker import RunningBroker, start_broker
from cipherfleet_deploy.local.record import FleetFailed
from cipherfleet_deploy.local.run import RUN_DAYS, patience
from cipherfleet_hil.measurement.document import (
    Benchmark,
    Kind,
    Measurement,
    NodeFigures,
    Run,
    States,
    Target,
    Verdict,
    benchmark,
    measurement,
)
from cipherfleet_hil.measurement.environment import Environment, environment
from cipherfleet_hil.measurement.round_figures import (
    NETWORK,
    ROUND,
    NodeSpans,
    Span,
    after_warm_up,
    network_seconds,
    node_figures,
)
from cipherfleet_hil.measurement.validity import judge
from cipherfleet_hil.targets import lease_agent as keeper
from cipherfleet_hil.targets.bench_file import Bench, is_here
from cipherfleet_hil.targets.target import KeptTarget, Waited
from cipherfleet_node.runtime.daemon import SPANS_FILE
from cipherfleet_node.settings.node_yaml import LOGS_FOLDER
from cipherfleet_node.settings.sections import Broker, Simulation
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.certificates import Certified, make_authority, secure
from cipherfleet_provisioning.fleet.file import Overrides
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet

from .node_runner import Ran
from .prediction import foretold

WARM_UP = 5
MOST_UNACCOUNTED = 0.05  # of a round's time, in no phase
EVERYWHERE = "0.0.0.0"  # noqa: S104  # to be reached from boards, with certificates only
NODES = "nodes"

Tell = Callable[[str], None]


@dataclass(frozen=True)
class RoundsPlan:
    """What to measure."""

    file: Path
    bench: Bench
    rounds: int
    nodes: int | None = None
    warm_up: int = WARM_UP
    card: Calibration | None = None  # of the targets' board

    @property
    def overrides(self) -> Overrides:
        """What it changes of the fleet."""
        return Overrides(nodes=self.nodes, rounds=self.warm_up + self.rounds)


@dataclass(frozen=True)
class Came:
    """What a fleet's run left: the machines' states, and every node's spans."""

    targets: Sequence[Target]
    nodes: Mapping[str, NodeSpans]


def measure_rounds(
    plan: RoundsPlan, command: str, tell: Tell, out: Path | None = None
) -> Measurement:
    """Run the fleet, and say what its rounds were made of. Raises CipherfleetError."""
    plan.bench.check_reach()
    fleet = load_fleet(plan.file, plan.overrides, endless=False)
    specs = plan.bench.targets[: len(fleet.members)]
    predicted = foretold(fleet, plan.card, [spec.name for spec in specs]) if plan.card else {}
    with ExitStack() as stack:
        targets = []
        for spec in specs:
            tell(f"target {spec.name}: taking it")
            targets.append(stack.enter_context(plan.bench.make(spec)))
        tell(f"{len(fleet.members)} nodes on {', '.join(target.name for target in targets)}")
        came = run_fleet(fleet, plan, targets, tell, out)
    return document(plan, fleet, came, command, predicted)


# -- the fleet -----------------------------------------------------------------------------------


def spread(names: Sequence[str], targets: Sequence[KeptTarget]) -> dict[str, list[str]]:
    """Who runs on which target, in turn."""
    places: dict[str, list[str]] = defaultdict(list)
    for index, name in enumerate(names):
        places[targets[index % len(targets)].name].append(name)
    return dict(places)


def run_fleet(
    fleet: Fleet,
    plan: RoundsPlan,
    targets: Sequence[KeptTarget],
    tell: Tell,
    out: Path | None = None,
) -> Came:
    """Make the nodes, bring them to their targets, run them to their end, fetch their spans.

    The spans of the warm-up, too, go into the folder *out*.
    """
    places = spread([member.id for member in fleet.members], targets)
    kinds = {target.name: target.kind for target in targets}
    with tempfile.TemporaryDirectory(prefix="cipherfleet-rounds-") as name:
        folder = Path(name)
        with _broker(fleet, plan.bench, folder) as (broker, address, authority):
            tell(f"broker: {broker.name} {broker.version} at {address.host}:{address.port}")
            bundles = write_bundles(
                fleet, folder / NODES, address, Simulation(), authority=authority
            )
            for target in targets:
                mine = folder / target.name
                mine.mkdir()
                for node in places[target.name]:
                    bundles[node].rename(mine / node)
                target.put(mine, NODES)
            tell(f"{plan.warm_up} rounds to warm up, {plan.rounds} to be measured")
            ran = _run(fleet, targets, places)
    if out is not None:
        _save(ran, out)
    states = as_shared(targets, ran)
    nodes = {
        node: NodeSpans(node, target.name, after_warm_up(spans, plan.warm_up))
        for target in targets
        for node, spans in ran.spans[target.name].items()
    }
    told = [
        Target(name=target.name, kind=kinds[target.name], environment=states[target.name])
        for target in targets
    ]
    return Came(told, nodes)


@contextmanager
def _broker(
    fleet: Fleet, bench: Bench, folder: Path
) -> Iterator[tuple[RunningBroker, Broker, Certified | None]]:
    """The broker, how nodes reach it, and the authority where they need certificates for it.

    Plain TCP stays on this machine.
    """
    wanted, tls = bench.broker, fleet.file.broker.tls or not is_here(bench.broker.address)
    security = authority = None
    if tls:
        now, place = datetime.now(UTC), folder / "tls"
        place.mkdir(mode=0o700)
        authority = make_authority(fleet.file.fleet, now, RUN_DAYS)
        security = secure(fleet, authority, place, now, [wanted.address])
        if not is_here(wanted.address):
            security = replace(security, listen=EVERYWHERE)
    with start_broker(wanted.kind, wanted.port, security) as broker:
        yield broker, Broker(host=wanted.address, port=broker.port, tls=tls), authority


@dataclass(frozen=True)
class _Ran:
    """What the targets told, by their names."""

    told: Mapping[str, Ran]
    spans: Mapping[str, Mapping[str, Sequence[Span]]]
    here: States  # this machine, what the harness and the broker used as its own


def _run(fleet: Fleet, targets: Sequence[KeptTarget], places: Mapping[str, Sequence[str]]) -> _Ran:
    before = environment()
    jobs = {target.name: _start(target, places[target.name]) for target in targets}
    waiting, began = list(targets), time.monotonic()
    while waiting:
        target = waiting.pop(0)
        waited = target.wait([jobs[target.name]], 5.0, _watched(places[target.name]))
        if not waited.ended:
            _check_moves(fleet, target, waited, time.monotonic() - began)
            waiting.append(target)
        elif waited.codes[jobs[target.name]] != 0:
            raise FleetFailed(f"{target.name}: {target.last_words(jobs[target.name])}")
    here = States(before=before, after=environment())
    told = {t.name: _told(t.read(f"jobs/{jobs[t.name]}/out")) for t in targets}
    spans = {t.name: _spans(t, told[t.name]) for t in targets}
    return _Ran(told, spans, here)


def _start(target: KeptTarget, nodes: Iterable[str]) -> str:
    folders = [f"{target.folder}/{NODES}/{node}" for node in nodes]
    own = ("--own", str(target.keeper_pid))
    return target.start(target.module("cipherfleet_hil.measuring.node_runner", *own, *folders))


def _watched(nodes: Iterable[str]) -> list[str]:
    return [f"{NODES}/{node}/{LOGS_FOLDER}/{SPANS_FILE}" for node in nodes]


def _check_moves(fleet: Fleet, target: KeptTarget, waited: Waited, since_s: float) -> None:
    """Raise FleetFailed where no node there has written anything for too long."""
    idle, limit = waited.idle_s if waited.idle_s is not None else since_s, patience(fleet)
    if idle > limit:
        raise FleetFailed(
            f"{target.name}: no round was closed for {idle:.0f} s; can the target reach the "
            "broker (broker.address in the bench file, a firewall)?"
        )


def _told(data: bytes) -> Ran:
    return msgspec.json.decode(data, type=Ran)


def _save(ran: _Ran, out: Path) -> None:
    """Every node's spans as they were, <out>/NODE.jsonl."""
    for nodes in ran.spans.values():
        for node, spans in nodes.items():
            lines = [json.dumps(span) for span in spans]
            (out / f"{node}.jsonl").write_text("\n".join(lines) + "\n")


def _spans(target: KeptTarget, ran: Ran) -> dict[str, list[Span]]:
    return {
        node: [
            json.loads(line)
            for file in files
            for line in target.read(f"{NODES}/{node}/{file}").splitlines()
        ]
        for node, files in ran.spans.items()
    }


def as_shared(targets: Sequence[KeptTarget], ran: _Ran) -> dict[str, States]:
    """The states of *targets*; on this machine, all that is measured there is nobody else's load.

    Containers, this machine as a target, the broker and the harness share its processor.
    """
    states = {name: told.environment for name, told in ran.told.items()}
    here = [t.name for t in targets if t.machine.boot == keeper.boot_id()]
    parts = [ran.here, *(states[name] for name in here)]
    before = sum(part.before.cpu_time.own_s for part in parts)
    after = sum(part.after.cpu_time.own_s for part in parts)
    shared = {
        name: States(
            before=_with_own(states[name].before, before),
            after=_with_own(states[name].after, after),
        )
        for name in here
    }
    return states | shared


def _with_own(state: Environment, own_s: float) -> Environment:
    cpu = msgspec.structs.replace(state.cpu_time, own_s=own_s)
    return msgspec.structs.replace(state, cpu_time=cpu)


def document(
    plan: RoundsPlan,
    fleet: Fleet,
    came: Came,
    command: str,
    predicted: Mapping[str, float] | None = None,
) -> Measurement:
    """All that is told of the run."""
    figures = [node_figures(node, came.nodes) for node in came.nodes.values()]
    benchmarks = list(_benchmarks(came))
    kinds = {target.kind for target in came.targets}
    return measurement(
        what="rounds",
        kind=_weakest(kinds),
        title=f"rounds of {fleet.file.fleet}, {len(fleet.members)} nodes on "
        + ", ".join(target.name for target in came.targets),
        command=command,
        settings={
            "fleet": fleet.file.fleet,
            "nodes": len(fleet.members),
            "edges": len(fleet.graph.edges),
            "key_bits": fleet.file.crypto.key_bits,
            "dimension": fleet.dimension,
            "exchange": fleet.exchange,
            "broker": plan.bench.broker.kind,
            "tls": fleet.file.broker.tls or not is_here(plan.bench.broker.address),
        },
        targets=list(came.targets),
        verdict=verdict(came.targets, benchmarks, figures),
        benchmarks=benchmarks,
        nodes=figures,
        predicted=predicted,
        effort={"rounds": plan.rounds, "warm_up": plan.warm_up},
    )


def _benchmarks(came: Came) -> Iterator[Benchmark]:
    """Rounds, and what the network took of trips, for each target; a run is a node."""
    for target in came.targets:
        nodes = [node for node in came.nodes.values() if node.target == target.name]
        for name, times in (
            (ROUND, {node.name: node.seconds(ROUND) for node in nodes}),
            (NETWORK, {node.name: network_seconds(node, came.nodes) for node in nodes}),
        ):
            runs = [
                Run(values=values, metadata={"node": node, "target": target.name})
                for node, seconds in times.items()
                if (values := [second for second in seconds if second > 0])
            ]
            if runs:
                yield benchmark(f"{name}, {target.name}", {"target": target.name}, runs)


def verdict(
    targets: Sequence[Target], benchmarks: Sequence[Benchmark], nodes: Sequence[NodeFigures]
) -> Verdict:
    """As of any measurement; nodes are no repetitions of each other, so they may differ."""
    judged = judge(targets, benchmarks, random={b.name for b in benchmarks}, least_processes=1)
    reasons = [*judged.reasons, *_doubts(nodes)]
    return Verdict(valid=not reasons, reasons=reasons, notes=[*judged.notes, *_remarks(nodes)])


def _doubts(nodes: Iterable[NodeFigures]) -> Iterator[str]:
    for node in nodes:
        gap = node.counts["unaccounted"]
        if abs(gap) > MOST_UNACCOUNTED:
            yield (
                f"{node.name}: {gap:.1%} of its rounds are in no phase, at most "
                f"{MOST_UNACCOUNTED:.0%} may be"
            )


def _remarks(nodes: Iterable[NodeFigures]) -> Iterator[str]:
    for node in nodes:
        if node.counts["silent"]:
            yield f"{node.name}: went without {node.counts['silent']:g} answers"
        if node.counts["pool_misses"]:
            yield (
                f"{node.name}: {node.counts['pool_misses']:g} obfuscators were made on the spot, "
                "since a pool was empty: rounds follow each other faster than it fills"
            )


def _weakest(kinds: Iterable[Kind]) -> Kind:
    """What a figure of machines of several *kinds* may be called."""
    found = set(kinds)
    return next(iter(found)) if len(found) == 1 else "emulated" if "emulated" in found else "host"
