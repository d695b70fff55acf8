"""The app that Flower runs: federated averaging of one model, in clear or with SecAgg+.

Flower loads this file in an environment of its own, so the file imports flwr and numpy only. The
run configuration names two files. `task` holds the functions of all nodes and the settings. The
server appends a line to `log` after each round. accuracy/flower.py writes the one and reads the
other.

A client takes one gradient step from the server's model, and all clients have the same weight. The
mean of their models is one step of gradient descent on the mean objective, whose fixed point is the
centralised answer. Several local steps a round would end at another point.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

POLL_S = 0.1
EXAMPLES = 100  # the weight of every client

client = ClientApp()
server = ServerApp()


def _task(context: Context) -> dict[str, Any]:
    return dict(json.loads(Path(str(context.run_config["task"])).read_text(encoding="utf-8")))


def _step(context: Context, model: Any) -> Any:
    """Return *model*, shape (d,), after one gradient step of this client."""
    task, own = _task(context), int(context.node_config["partition-id"])
    hessian, offset = np.array(task["hessians"][own]), np.array(task["offsets"][own])
    return model - task["step"] * (hessian @ model + offset)


@client.train()  # type: ignore[untyped-decorator]  # flwr is not in the environment of mypy
def train(message: Message, context: Context) -> Message:
    """Answer the server's model with the client's own."""
    model = _step(context, message.content["arrays"].to_numpy_ndarrays()[0])
    metrics = MetricRecord({"num-examples": EXAMPLES})
    content = RecordDict({"arrays": ArrayRecord([model]), "metrics": metrics})
    return Message(content, reply_to=message)


class MaskedClient(NumPyClient):  # type: ignore[misc]  # as above
    """The client of SecAgg+, which flwr has for its older interface only."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def fit(self, parameters: Any, config: Any) -> Any:  # noqa: ARG002  # the signature of flwr
        """Return the client's model, its weight, and no metrics."""
        return [_step(self._context, parameters[0])], EXAMPLES, {}


masked_client = ClientApp(
    client_fn=lambda context: MaskedClient(context).to_client(), mods=[secaggplus_mod]
)


@server.main()  # type: ignore[untyped-decorator]  # as above
def main(grid: Grid, context: Context) -> None:
    """Wait for all clients, and run all rounds."""
    task, log = _task(context), Path(str(context.run_config["log"]))
    try:
        _run(grid, context, task, Replies(grid, log))
    except Exception:
        # Flower's processes go on after the end of its server app: the benchmark looks for this.
        log.with_suffix(".failure").write_text(traceback.format_exc(), encoding="utf-8")
        raise


def _run(grid: Grid, context: Context, task: dict[str, Any], replies: Replies) -> None:
    grid.send_and_receive = replies.send_and_receive
    while len(list(grid.get_node_ids())) < len(task["offsets"]):
        time.sleep(POLL_S)
    if task["masks"] is None:
        _average(grid, task, replies)
    else:
        _average_masked(grid, context, task, replies)


class Replies:
    """Collects and counts the replies of clients, and writes the log."""

    def __init__(self, grid: Grid, log: Path) -> None:
        self._grid = grid
        self._log = log
        self._bytes = 0

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Do what the method of Grid does, but look for replies every POLL_S seconds.

        Flower's own looks every 3 seconds, which is much longer than this problem needs.
        """
        waiting = set(self._grid.push_messages(messages))
        replies: list[Message] = []
        until = None if timeout is None else time.monotonic() + timeout
        while waiting and (until is None or time.monotonic() < until):
            found = list(self._grid.pull_messages(waiting))
            replies += found
            waiting -= {each.metadata.reply_to_message_id for each in found}
            if waiting:
                time.sleep(POLL_S)
        for each in replies:
            if each.has_error():
                raise RuntimeError(f"a client failed: {each.error}")
            self._bytes += _serialised_bytes(each)
        return replies

    def write_round(self, number: int, model: Any) -> None:
        """Append the state after round *number*; round 0 is the start."""
        state = {
            "round": number,
            "model": np.asarray(model).tolist(),
            "reply_bytes": self._bytes,
            "at": time.monotonic(),
        }
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(state) + "\n")


def _serialised_bytes(record: Any) -> int:
    """Return the bytes of *record* and of all that it holds, as Flower serialises them."""
    parts = record.children or {}
    return len(record.deflate()) + sum(map(_serialised_bytes, parts.values()))


def _average(grid: Grid, task: dict[str, Any], replies: Replies) -> None:
    def record(number: int, arrays: ArrayRecord) -> None:
        replies.write_round(number, arrays.to_numpy_ndarrays()[0])

    clients, start = len(task["offsets"]), np.zeros(len(task["offsets"][0]))
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
    strategy.start(grid, ArrayRecord([start]), num_rounds=task["rounds"], evaluate_fn=record)


def _average_masked(grid: Grid, context: Context, task: dict[str, Any], replies: Replies) -> None:
    def record(number: int, arrays: Any, _: Any) -> None:
        replies.write_round(number, arrays[0])

    clients, masks = len(task["offsets"]), task["masks"]
    strategy = LegacyFedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=clients,
        min_available_clients=clients,
        evaluate_fn=record,
        initial_parameters=ndarrays_to_parameters([np.zeros(len(task["offsets"][0]))]),
    )
    workflow = SecAggPlusWorkflow(
        num_shares=masks["shares"],
        reconstruction_threshold=masks["threshold"],
        max_weight=float(EXAMPLES),
        clipping_range=masks["clipping_range"],
        quantization_range=masks["levels"],
    )
    settings = ServerConfig(num_rounds=task["rounds"])
    legacy = LegacyContext(context, config=settings, strategy=strategy)
    DefaultWorkflow(fit_workflow=workflow)(grid, legacy)
