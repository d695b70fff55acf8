"""The outputs of a daemon: which there are, and what the agent's state gives them to publish."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial

import numpy as np

from cipherfleet_node.core.agent import Agent
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.core.statistics import find_solutions
from cipherfleet_node.core.window import window_of
from cipherfleet_node.errors import AnswerUnavailable
from cipherfleet_node.outputs import Answer, load
from cipherfleet_node.outputs.file import AnswerFile
from cipherfleet_node.outputs.physical import Newest, Place, make_answer, regressor_of
from cipherfleet_node.outputs.plugins import open_plugin
from cipherfleet_node.outputs.program import AnswerProgram
from cipherfleet_node.outputs.publisher import Output, OutputThread, Publisher, Sink
from cipherfleet_node.settings.sections import AnswerMqtt, settled_accuracy

from .bundle import Bundle
from .drift_watch import DriftWatch
from .synced_files import replace_synced


class AnswerOutputs:
    """Publish the answer of one node. It belongs to the daemon's thread."""

    def __init__(self, bundle: Bundle, now: float, more: Sequence[Sink] = ()) -> None:
        """Begin at monotonic *now*; no output but those of *more* is open before the first answer.

        *more* are sinks that also have other tasks.
        """
        self._bundle, self._config = bundle, bundle.config
        self._newest: Sample | None = None
        self._drift = DriftWatch(bundle)
        self._has_coupled = False  # in this start: until then the saved state says nothing new
        sinks = [*(OutputThread(name, make) for name, make in _outputs(bundle)), *more]
        every_s = self._config.answer.every_s
        self._publisher = Publisher(sinks, every_s, now, _latest(bundle))

    def read(self, samples: Sequence[Sample]) -> None:
        """Remember the newest of *samples*: a follower keeps no window."""
        self._drift.read(len(samples))
        if samples:
            self._newest = samples[-1]

    def couple(self) -> None:
        """Note that a round of this start has been coupled."""
        self._has_coupled = True

    def tend(self, now: float, agent: Agent) -> None:
        """Publish the answer of *agent* if it is due at monotonic *now*."""
        if self._has_coupled:
            if agent.has_answer:
                self._drift.judge(agent.state.estimate)
            self._publisher.tend(now, partial(self._make, agent), is_settled=agent.has_answer)

    def close(self) -> None:
        """Release all outputs, within some seconds."""
        self._publisher.close()
        self._drift.save()

    def _make(self, agent: Agent) -> Answer | None:
        config, estimate = self._config, agent.state.estimate
        if estimate is None:
            return None
        solution = find_solutions(np.array(estimate), config.algorithm, config.objective)
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        place = Place(config.fleet, config.node, agent.round_number, at)
        accuracy = settled_accuracy(config)
        assert accuracy is not None, "a node that never settles has no answer"
        return make_answer(
            place,
            solution,
            config.objective,
            config.answer,
            accuracy,
            self._measured(),
            estimate[-1] if config.objective.drift is not None else None,
        )

    def _measured(self) -> Newest:
        window, section = window_of(self._bundle.objective), self._config.objective
        if section.target is None:
            return Newest()
        if window is not None and len(window):
            return Newest(window.rows[-1, :-1], window.rows, self._drift.latest)
        if self._newest is None:
            return Newest()
        return Newest(regressor_of(self._newest, section))


def _outputs(bundle: Bundle) -> Iterator[tuple[str, Callable[[], Output]]]:
    """Yield the name of each output of *bundle*, and what opens it."""
    folder, settings = bundle.folder, bundle.config.answer
    if settings.file:
        yield "answer.file", lambda: AnswerFile(folder, replace_synced)
    if (command := settings.exec) is not None:
        yield "answer.exec", lambda: AnswerProgram(command, settings.exec_timeout_s, folder)
    if settings.mqtt is not None:
        yield "answer.mqtt", partial(_open_broker, bundle, settings.mqtt)
    for name, options in settings.plugins.items():
        yield f"answer.plugins.{name}", partial(open_plugin, name, folder, options)


def _open_broker(bundle: Bundle, settings: AnswerMqtt) -> Output:
    from cipherfleet_node.outputs.mqtt import AnswerBroker  # a second client takes memory

    config = bundle.config
    whose, fleet_broker = (config.fleet, config.node), (config.broker.host, config.broker.port)
    return AnswerBroker(settings, whose, bundle.folder, fleet_broker)


def _latest(bundle: Bundle) -> Answer | None:
    """Return the answer that an earlier start of this node has published, if it is of this kind."""
    with suppress(AnswerUnavailable):
        latest, config = load(bundle.folder), bundle.config
        same = (config.fleet, config.node, config.objective.kind)
        return latest if (latest.fleet, latest.node, latest.kind) == same else None
    return None
