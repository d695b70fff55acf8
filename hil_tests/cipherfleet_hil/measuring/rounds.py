"""Measure rounds of a real fleet whose nodes run on the targets of a bench, with a real broker."""

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
from cipherfleet_deploy.local.run import RUN_DAYS, stall_timeout_s
from cipherfleet_hil.measurement.document import (
    Benchmark,
    Kind,
    Measurement,
    NodeFigures,
    Run,
    States,
    Target,
    Validity,
    benchmark,
    measurement,
)
from cipherfleet_hil.measurement.environment import Environment, read_environment
from cipherfleet_hil.measurement.round_figures import (
    NETWORK,
    ROUND,
    NodeSpans,
    Span,
    network_seconds,
    node_figures,
    skip_warm_up,
)
from cipherfleet_hil.measurement.validity import assess
from cipherfleet_hil.targets import lease_agent
from cipherfleet_hil.targets.bench_file import Bench, is_loopback
from cipherfleet_hil.targets.target import JobStates, LeasedTarget
from cipherfleet_node.runtime.telemetry import SPANS_FILE
from cipherfleet_node.settings.node_yaml import LOGS_FOLDER
from cipherfleet_node.settings.sections import Broker, Simulation
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.certificates import Certified, make_authority, secure
from cipherfleet_provisioning.fleet.file import Overrides
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet

from .node_runner import NodeRuns
from .prediction import predict_rounds

WARM_UP = 5
MOST_UNACCOUNTED = 0.05  # share of a round's time that may be in no phase
ALL_ADDRESSES = "0.0.0.0"  # noqa: S104  # boards must reach the broker; it requires certificates
NODES = "nodes"

Tell = Callable[[str], None]


@dataclass(frozen=True)
class RoundsPlan:
    """The fleet, the bench and the effort of a measurement of rounds."""

    file: Path
    bench: Bench
    rounds: int
    nodes: int | None = None
    warm_up: int = WARM_UP
    card: Calibration | None = None  # calibration card of the targets' board

    @property
    def overrides(self) -> Overrides:
        """The plan's changes to the fleet file."""
        return Overrides(nodes=self.nodes, rounds=self.warm_up + self.rounds)


@dataclass(frozen=True)
class FleetRun:
    """The results of a fleet's run: the machines' states, and every node's spans."""

    targets: Sequence[Target]
    nodes: Mapping[str, NodeSpans]


def measure_rounds(
    plan: RoundsPlan, command: str, tell: Tell, out: Path | None = None
) -> Measurement:
    """Run the fleet and measure the phases of its rounds. Raises CipherfleetError."""
    plan.bench.check_reach()
    fleet = load_fleet(plan.file, plan.overrides, endless=False)
    specs = plan.bench.targets[: len(fleet.members)]
    predicted = predict_rounds(fleet, plan.card, [spec.name for spec in specs]) if plan.card else {}
    with ExitStack() as stack:
        targets = []
        for spec in specs:
            tell(f"target {spec.name}: taking the lease")
            targets.append(stack.enter_context(plan.bench.open_target(spec)))
        tell(f"{len(fleet.members)} nodes on {', '.join(target.name for target in targets)}")
        fleet_run = run_fleet(fleet, plan, targets, tell, out)
    return document(plan, fleet, fleet_run, command, predicted)


# -- the fleet -----------------------------------------------------------------------------------


def distribute(names: Sequence[str], targets: Sequence[LeasedTarget]) -> dict[str, list[str]]:
    """Assign nodes to targets in rotation; return the nodes of each target."""
    places: dict[str, list[str]] = defaultdict(list)
    for index, name in enumerate(names):
        places[targets[index % len(targets)].name].append(name)
    return dict(places)


def run_fleet(
    fleet: Fleet,
    plan: RoundsPlan,
    targets: Sequence[LeasedTarget],
    tell: Tell,
    out: Path | None = None,
) -> FleetRun:
    """Create the nodes, copy them to the targets, run them to the last round, fetch their spans.

    *out* is a folder for the spans, those of the warm-up included.
    """
    places = distribute([member.id for member in fleet.members], targets)
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
            tell(f"{plan.warm_up} warm-up rounds, {plan.rounds} measured rounds")
            results = _run(fleet, targets, places)
    if out is not None:
        _save_spans(results, out)
    states = share_machine_load(targets, results)
    nodes = {
        node: NodeSpans(node, target.name, skip_warm_up(spans, plan.warm_up))
        for target in targets
        for node, spans in results.spans[target.name].items()
    }
    found = [
        Target(name=target.name, kind=kinds[target.name], environment=states[target.name])
        for target in targets
    ]
    return FleetRun(found, nodes)


@contextmanager
def _broker(
    fleet: Fleet, bench: Bench, folder: Path
) -> Iterator[tuple[RunningBroker, Broker, Certified | None]]:
    """Start the broker; yield it, its address for nodes, and the authority of their certificates.

    Plain TCP is used only on this machine; nodes on boards use TLS.
    """
    wanted, tls = bench.broker, fleet.file.broker.tls or not is_loopback(bench.broker.address)
    security = authority = None
    if tls:
        now, place = datetime.now(UTC), folder / "tls"
        place.mkdir(mode=0o700)
        authority = make_authority(fleet.file.fleet, now, RUN_DAYS)
        security = secure(fleet, authority, place, now, [wanted.address])
        if not is_loopback(wanted.address):
            security = replace(security, listen=ALL_ADDRESSES)
    with start_broker(wanted.kind, wanted.port, security) as broker:
        yield broker, Broker(host=wanted.address, port=broker.port, tls=tls), authority


@dataclass(frozen=True)
class _TargetResults:
    """The results of all targets, by target name."""

    node_runs: Mapping[str, NodeRuns]
    spans: Mapping[str, Mapping[str, Sequence[Span]]]
    here: States  # state of this machine; harness and broker count as its own load


def _run(
    fleet: Fleet, targets: Sequence[LeasedTarget], places: Mapping[str, Sequence[str]]
) -> _TargetResults:
    before = read_environment()
    jobs = {target.name: _start(target, places[target.name]) for target in targets}
    waiting, began = list(targets), time.monotonic()
    while waiting:
        target = waiting.pop(0)
        waited = target.wait([jobs[target.name]], 5.0, _span_paths(places[target.name]))
        if not waited.have_ended:
            _check_progress(fleet, target, waited, time.monotonic() - began)
            waiting.append(target)
        elif waited.codes[jobs[target.name]] != 0:
            raise FleetFailed(f"{target.name}: {target.last_error_line(jobs[target.name])}")
    here = States(before=before, after=read_environment())
    found = {t.name: _parse_node_runs(t.read(f"jobs/{jobs[t.name]}/out")) for t in targets}
    spans = {t.name: _fetch_spans(t, found[t.name]) for t in targets}
    return _TargetResults(found, spans, here)


def _start(target: LeasedTarget, nodes: Iterable[str]) -> str:
    folders = [f"{target.folder}/{NODES}/{node}" for node in nodes]
    own = ("--own", str(target.agent_pid))
    return target.start(target.module("cipherfleet_hil.measuring.node_runner", *own, *folders))


def _span_paths(nodes: Iterable[str]) -> list[str]:
    return [f"{NODES}/{node}/{LOGS_FOLDER}/{SPANS_FILE}" for node in nodes]


def _check_progress(fleet: Fleet, target: LeasedTarget, waited: JobStates, since_s: float) -> None:
    """Raise FleetFailed if no node on *target* has written a span for too long."""
    idle, limit = waited.idle_s if waited.idle_s is not None else since_s, stall_timeout_s(fleet)
    if idle > limit:
        raise FleetFailed(
            f"{target.name}: no round was closed for {idle:.0f} s, at most {limit:.0f} s",
            remedy=(
                "make sure that the target reaches the broker (broker.address in the bench file, "
                "firewalls)"
            ),
        )


def _parse_node_runs(data: bytes) -> NodeRuns:
    return msgspec.json.decode(data, type=NodeRuns)


def _save_spans(results: _TargetResults, out: Path) -> None:
    """Write every node's spans unchanged to <out>/NODE.jsonl."""
    for nodes in results.spans.values():
        for node, spans in nodes.items():
            lines = [json.dumps(span) for span in spans]
            (out / f"{node}.jsonl").write_text("\n".join(lines) + "\n")


def _fetch_spans(target: LeasedTarget, results: NodeRuns) -> dict[str, list[Span]]:
    return {
        node: [
            json.loads(line)
            for file in files
            for line in target.read(f"{NODES}/{node}/{file}").splitlines()
        ]
        for node, files in results.spans.items()
    }


def share_machine_load(
    targets: Sequence[LeasedTarget], results: _TargetResults
) -> dict[str, States]:
    """Return the states of *targets*; on this machine, everything measured counts as own load.

    Containers, this machine as a target, the broker and the harness share one processor. Without
    this, each of them would count as other load of the others.
    """
    states = {name: result.environment for name, result in results.node_runs.items()}
    here = [t.name for t in targets if t.machine.boot == lease_agent.boot_id()]
    parts = [results.here, *(states[name] for name in here)]
    before = sum(part.before.cpu_time.own_s for part in parts)
    after = sum(part.after.cpu_time.own_s for part in parts)
    shared = {
        name: States(
            before=_replace_own_time(states[name].before, before),
            after=_replace_own_time(states[name].after, after),
        )
        for name in here
    }
    return states | shared


def _replace_own_time(state: Environment, own_s: float) -> Environment:
    cpu = msgspec.structs.replace(state.cpu_time, own_s=own_s)
    return msgspec.structs.replace(state, cpu_time=cpu)


def document(
    plan: RoundsPlan,
    fleet: Fleet,
    fleet_run: FleetRun,
    command: str,
    predicted: Mapping[str, float] | None = None,
) -> Measurement:
    """Create the document of the run."""
    figures = [node_figures(node, fleet_run.nodes) for node in fleet_run.nodes.values()]
    benchmarks = list(_benchmarks(fleet_run))
    kinds = {target.kind for target in fleet_run.targets}
    return measurement(
        what="rounds",
        kind=_combine_kinds(kinds),
        title=f"rounds of {fleet.file.fleet}, {len(fleet.members)} nodes on "
        + ", ".join(target.name for target in fleet_run.targets),
        command=command,
        settings={
            "fleet": fleet.file.fleet,
            "nodes": len(fleet.members),
            "edges": len(fleet.graph.edges),
            "key_bits": fleet.file.crypto.key_bits,
            "dimension": fleet.dimension,
            "exchange": fleet.exchange,
            "broker": plan.bench.broker.kind,
            "tls": fleet.file.broker.tls or not is_loopback(plan.bench.broker.address),
        },
        targets=list(fleet_run.targets),
        verdict=assess_rounds(fleet_run.targets, benchmarks, figures),
        benchmarks=benchmarks,
        nodes=figures,
        predicted=predicted,
        effort={"rounds": plan.rounds, "warm_up": plan.warm_up},
    )


def _benchmarks(fleet_run: FleetRun) -> Iterator[Benchmark]:
    """Yield the benchmarks `round` and `network` of each target, with one run per node."""
    for target in fleet_run.targets:
        nodes = [node for node in fleet_run.nodes.values() if node.target == target.name]
        for name, times in (
            (ROUND, {node.name: node.seconds(ROUND) for node in nodes}),
            (NETWORK, {node.name: network_seconds(node, fleet_run.nodes) for node in nodes}),
        ):
            runs = [
                Run(values=values, metadata={"node": node, "target": target.name})
                for node, seconds in times.items()
                if (values := [second for second in seconds if second > 0])
            ]
            if runs:
                yield benchmark(f"{name}, {target.name}", {"target": target.name}, runs)


def assess_rounds(
    targets: Sequence[Target], benchmarks: Sequence[Benchmark], nodes: Sequence[NodeFigures]
) -> Validity:
    """Decide whether the measurement is valid.

    Nodes do not repeat each other's work: the spread of their times is not checked, and one
    node is enough.
    """
    validity = assess(targets, benchmarks, random={b.name for b in benchmarks}, least_processes=1)
    reasons = [*validity.reasons, *_invalidating_reasons(nodes)]
    return Validity(valid=not reasons, reasons=reasons, notes=[*validity.notes, *_caveats(nodes)])


def _invalidating_reasons(nodes: Iterable[NodeFigures]) -> Iterator[str]:
    for node in nodes:
        gap = node.counts["unaccounted"]
        if abs(gap) > MOST_UNACCOUNTED:
            yield (
                f"{node.name}: {gap:.1%} of its rounds' time is in no phase, at "
                f"most {MOST_UNACCOUNTED:.0%} may be"
            )


def _caveats(nodes: Iterable[NodeFigures]) -> Iterator[str]:
    for node in nodes:
        if node.counts["silent"]:
            yield f"{node.name}: closed its rounds without {node.counts['silent']:g} answers"
        if node.counts["pool_misses"]:
            yield (
                f"{node.name}: {node.counts['pool_misses']:g} obfuscators were made inside a "
                "round, "
                "because a pool was empty: rounds follow each other faster than pools fill"
            )


def _combine_kinds(kinds: Iterable[Kind]) -> Kind:
    """Return the kind of a figure that combines machines of several *kinds*."""
    found = set(kinds)
    return next(iter(found)) if len(found) == 1 else "emulated" if "emulated" in found else "host"
