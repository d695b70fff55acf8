"""What a daemon records about itself: spans, counts of messages, warnings, and health reports.

Nothing here is computed from a reading, an estimate or a key. The one exception is the file of
estimates, which a node writes only if `simulation.trace_estimates` is on.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter, deque
from pathlib import Path

import numpy as np

from cipherfleet_node.core.agent import Agent
from cipherfleet_node.core.agreement import FAR_OFF
from cipherfleet_node.core.events import RoundClosed
from cipherfleet_node.core.messages import Health, Message, Presence, Query
from cipherfleet_node.core.statistics import find_solutions
from cipherfleet_node.outputs.figures import Figures
from cipherfleet_node.sensors.thermal import processor_temperature
from cipherfleet_node.settings.node_yaml import LOGS_FOLDER
from cipherfleet_node.settings.sections import NodeConfig

from .cpu_account import CollectionClock, cpu_by_part
from .mqtt import Link, Sent
from .obfuscator_pools import PoolFigures
from .round_trips import RoundTrips
from .spans import Spans, resident_mib
from .unanswered import Unanswered

log = logging.getLogger(__name__)

HEALTH_EVERY_S = 5.0
TIMED_ROUNDS = 9  # the health report has their median duration
SPOILED_ROUNDS = 3  # consecutive rounds, after which the log has a remedy
SPANS_FILE = "spans.jsonl"
ESTIMATES_FILE = "estimates.jsonl"


class Telemetry:
    """Collect the figures of one daemon. Times are monotonic seconds."""

    def __init__(self, folder: Path, config: NodeConfig, began: float, patience_s: float) -> None:
        self._folder, self._config = folder / LOGS_FOLDER, config
        self.spans = Spans(self._folder / SPANS_FILE)
        self.collection = CollectionClock()
        self.round_trips = RoundTrips(self.spans)
        self.unanswered = Unanswered(patience_s, began)
        self._is_alerted = False  # the log has the present alert
        self.rejected: Counter[str] = Counter()
        self.surplus: Counter[str] = Counter()
        self.closed_at = self._began = began  # the time at which the latest round was closed
        self._latest_query: Sent | None = None
        self._silent = 0  # neighbours without an answer in the latest round
        self._missed = 0  # answers that did not come, since the start
        self._round_s: deque[float] = deque(maxlen=TIMED_ROUNDS)
        self._spoiled = 0  # consecutive rounds whose sealed answers did not open together
        self._is_lost = False  # neither this node nor a neighbour knows its round
        self._left_out: tuple[str, ...] = ()  # neighbours that are not asked any more
        self._generation: int | None = None  # as in the latest health report
        self._health_at = 0.0
        self._reports = 0  # number of health reports since the start
        self.connections = 0  # with the broker, since the start
        self.read_at: float | None = None  # when the newest reading came

    def hear(self, message: Message, at: float, *, is_live: bool) -> None:
        """Record a valid message of a neighbour; *is_live* unless the broker had retained it."""
        self.round_trips.arrived(message, at)
        is_will = isinstance(message, Presence) and message.state == "lost"
        if is_live and not is_will:
            self.unanswered.hear(message.sender, at)

    def record_sent(self, message: Message, sent: Sent, before: float) -> None:
        """Record that *message* was passed to the link between *before* and now."""
        self.round_trips.sent(message, before, time.monotonic())
        if isinstance(message, Query):
            self._latest_query = sent

    def record_wait(self, began: float, ended: float) -> None:
        """Record a wait for events.

        The part before the broker acknowledged the query counts as phase `acknowledge`, since no
        neighbour can answer before.
        """
        if self._latest_query is not None:
            waited = self._latest_query.unacknowledged_s(began, ended)
            self.spans.move("wait", "acknowledge", waited)

    def reject(self, sender: str, reason: str) -> None:
        """Count a refused message, and warn of it; a flood must not fill the log."""
        self.rejected[reason] += 1
        times = self.rejected[reason]
        if _is_power_of_two(times):
            log.warning("dropped a message of %s: %s (%d so far)", sender, reason, times)

    def close_round(self, closed: RoundClosed, pools: PoolFigures, link: Link) -> None:
        """Record the figures of a closed round, and warn of neighbours without a valid answer."""
        now = time.monotonic()
        # One event may close a round and open the next: count no time twice.
        opened, self.closed_at = max(closed.opened, self.closed_at), now
        self._round_s.append(now - opened)
        self._silent = len(closed.silent)
        self._missed += self._silent
        is_answered = self._silent < len(self._config.neighbours)
        self.unanswered.close_round(now, is_answered=is_answered)
        self.spans.add(
            "round",
            closed.number,
            opened,
            now,
            phases=self.spans.phases_ms(now),
            silent=len(closed.silent),
            coupled=closed.is_coupled,
            rejected=sum(self.rejected.values()),
            inline=sum(pools.inline.values()),
            pool=min(pools.levels.values()),
            acknowledged_ms=self._latest_query.acknowledged_ms if self._latest_query else None,
            bytes_sent=link.bytes_sent,
            bytes_received=link.bytes_received,
            cpu_s=round(time.process_time(), 4),
            cpu=cpu_by_part(self.spans.cpu_by_phase()),
            collection_cpu_s=round(self.collection.seconds, 4),
            pool_cpu_s=round(pools.cpu_s, 4),
            rss_mib=resident_mib(),
        )
        with self.spans.during("tend"):
            self.spans.flush()
        if closed.number == 0:
            log.info("first round closed %.2f s after the start", now - self._began)
        self._warn_of_curvature(closed)
        self._warn_of_spoiled(closed)
        self._note_left_out(closed)
        if closed.silent and not self._config.is_idle_leaf:  # it asks no neighbour
            log.warning("round %d: no answer of %s", closed.number, ", ".join(closed.silent))
        if self._config.simulation.trace_estimates:
            self._trace_estimate(closed)

    @staticmethod
    def _warn_of_curvature(closed: RoundClosed) -> None:
        """Warn if the curvature of this node is far from the fleet's scale, without its value."""
        if closed.is_curved_more is None:
            return
        log.warning(
            "the features of this node are %s compared with those of the fleet: its curvature is "
            "%s the fleet's scale of curvature by a factor of more than %g, so the fleet needs "
            "more rounds; bring the fields to order one by offset and scale in objective",
            *(("large", "above") if closed.is_curved_more else ("small", "below")),
            FAR_OFF,
        )

    def _warn_of_spoiled(self, closed: RoundClosed) -> None:
        self._spoiled = self._spoiled + 1 if closed.spoiled else 0
        times, rest = divmod(self._spoiled, SPOILED_ROUNDS)
        if times and not rest and _is_power_of_two(times):  # after 3, 6, 12 ... rounds
            log.warning(
                "round %d: for %d rounds the answers of %s have not opened together: one of these "
                "nodes has a wrong seal of another one, or a damaged key; run `cipherfleet-node "
                "check-config` on each of them and compare seal and seals, then get the bundle "
                "again where they differ",
                closed.number,
                self._spoiled,
                ", ".join(closed.spoiled),
            )

    def _note_left_out(self, closed: RoundClosed) -> None:
        if closed.left_out == self._left_out:
            return
        self._left_out = closed.left_out
        names = ", ".join(closed.left_out)
        if names:
            text = "round %d: %s not asked any more, since answers with theirs were out of range"
            log.warning(text, closed.number, f"{names} is" if len(closed.left_out) == 1 else names)
        else:
            log.info("round %d: all neighbours are asked again", closed.number)

    def _noted_generation(self, agent: Agent) -> int | None:
        """Return the figure for the health report, and log that it has changed."""
        number = agent.generation
        if number == self._generation:
            return number
        if number:
            text = "round %d: this node has the shares of generation %d"
            log.info(text, agent.round_number, number)
        elif self._generation:
            log.warning(
                "round %d: this node has no shares any more, and goes on without its own gradient "
                "until it takes part in a generation that is applied",
                agent.round_number,
            )
        self._generation = number
        return number

    def _unanswered_s(self, now: float) -> int:
        """Return the figure for the health report, and log its begin and its end."""
        if self._config.is_idle_leaf:  # it asks no neighbour
            return 0
        seconds = self.unanswered.duration_s(now)
        if seconds and not self._is_alerted:
            log.warning(
                "no neighbour has answered this node for %d s, although messages of %s arrive: "
                "look into the logs of these nodes for refused messages of this one",
                seconds,
                ", ".join(self.unanswered.speakers(now)),
            )
        elif self._is_alerted and not seconds:
            log.info("this node is answered again, or its neighbours have become silent")
        self._is_alerted = bool(seconds)
        return seconds

    def _trace_estimate(self, closed: RoundClosed) -> None:
        file = self._folder / ESTIMATES_FILE
        file.touch(mode=0o600)
        with file.open("a") as stream:
            found = find_solutions(closed.estimate, self._config.algorithm, self._config.objective)
            solution = found.tolist() if np.isfinite(found).all() else None
            line = {"round": closed.number, "estimate": solution}
            stream.write(json.dumps(line) + "\n")

    def request_health(self) -> None:
        """Make the next health report due at once."""
        self._health_at = 0.0

    def warn_that_no_round_is_known(self) -> None:
        """Warn that this node and all its neighbours have lost their states."""
        if not self._is_lost:
            self._is_lost = True
            log.warning(
                "this node and all its neighbours have lost their states, so none of them knows a "
                "round that is unused: stop them, remove the file `started` in the folder of each "
                "one, and start them again at round 0"
            )

    def is_health_due(self, now: float) -> bool:
        """True if a health report is due at *now*; at math.inf the final one is."""
        return now >= self._health_at

    def report_health(self, now: float, agent: Agent, pools: PoolFigures) -> Health:
        """Return the health report of *now*; the next one is due HEALTH_EVERY_S later."""
        self._health_at = now + HEALTH_EVERY_S
        self._reports += 1
        config, times = self._config, sorted(self._round_s)
        return Health(
            fleet=config.fleet,
            sender=config.node,
            epoch=agent.state.epoch,
            number=self._reports,
            phase=agent.phase.value,
            round=agent.round_number,
            round_us=round(1e6 * times[len(times) // 2]) if times else 0,
            silent=self._silent,
            missed=self._missed,
            rejected=dict(self.rejected),
            surplus=dict(self.surplus),
            pool=min(pools.levels.values()),
            pool_size=config.crypto.pool,
            inline=sum(pools.inline.values()),
            left_out=list(self._left_out),
            settled=agent.is_settled,
            temperature=processor_temperature(config.source),
            unanswered_s=self._unanswered_s(time.monotonic()),
            generation=self._noted_generation(agent),
        )

    def figures(self, health: Health, agent: Agent, link: Link) -> Figures:
        """Return what the output `metrics` shows beside the answer; *health* is the latest one."""
        return Figures(
            health=health,
            coupled=agent.state.coupled,
            reconnects=max(self.connections - 1, 0),
            messages_sent=link.messages_sent,
            messages_received=link.messages_received,
            bytes_sent=link.bytes_sent,
            bytes_received=link.bytes_received,
            read_at=self.read_at,
            resident_mib=resident_mib(),
        )


def _is_power_of_two(count: int) -> bool:
    return count & (count - 1) == 0
