"""The page of `cipherfleet watch --page` without a browser: access, history, recordings.

All of it is in one file: access, history and recordings are tested on the same few states.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cipherfleet_deploy.watch.page.access import POLICY, Access
from cipherfleet_deploy.watch.page.app import DOCUMENT, FILES, STATIC, make_app
from cipherfleet_deploy.watch.page.broadcast import MAX_CLIENTS, MAX_WAITING, PING, Broadcaster
from cipherfleet_deploy.watch.page.events import EventFinder
from cipherfleet_deploy.watch.page.graph_svg import draw_graph
from cipherfleet_deploy.watch.page.history import SAMPLE_S, SAMPLES, History
from cipherfleet_deploy.watch.page.layout import ROOM, lay_out
from cipherfleet_deploy.watch.page.replay import replay
from cipherfleet_deploy.watch.page.serve import PageOptions, access_problem
from cipherfleet_deploy.watch.page.state import MAX_EVENTS, PageState
from cipherfleet_deploy.watch.table import ABSENT, ORDER, NodeStatus
from cipherfleet_deploy.watch.watch import View
from cipherfleet_node.errors import ConfigError
from cipherfleet_provisioning.fleet.fleet import load_fleet
from cipherfleet_provisioning.topology.graph import Graph
from tests.support.page_recording import recording, write_recording
from tests.support.paths import ROOT

COMMAND = [sys.executable, "-m", "cipherfleet_deploy", "watch"]
PAIR = Graph(("n1", "n2"), (("n1", "n2"),))


def node(name: str = "n1", state: str = "ready", **fields: Any) -> NodeStatus:
    return NodeStatus(name, state, **{"stale": False, "age_s": 1.0, "epoch": 5, **fields})


def view(*rows: NodeStatus, connected: bool = True, **fields: Any) -> View:
    return View("yard", list(rows), connected, **{"graph": PAIR, **fields})


# -- the graph ----------------------------------------------------------------------------------


def graphs() -> list[Graph]:
    fifty = load_fleet(ROOT / "examples/intel_lab/fleet.yaml").graph
    names = tuple(f"n{k}" for k in range(50))
    ring = tuple(sorted((names[k], names[(k + 1) % 50]) for k in range(50)))
    star = tuple((names[0], name) for name in names[1:])
    complete = tuple(combinations(names, 2))
    return [fifty, Graph(names, ring), Graph(names, star), Graph(names, complete), Graph(names, ())]


@pytest.mark.parametrize("graph", graphs(), ids=["geometric", "ring", "star", "complete", "empty"])
def test_fifty_nodes_have_room_for_their_names_at_positions_that_stay(graph: Graph) -> None:
    layout = lay_out(graph)
    assert lay_out(graph) == layout
    for x, y in layout.positions.values():
        assert 0 < x < layout.width
        assert 0 < y < layout.height
    for (x1, y1), (x2, y2) in combinations(layout.positions.values(), 2):
        apart = ((x1 - x2) / ROOM[0]) ** 2 + ((y1 - y2) / ROOM[1]) ** 2
        assert apart > 0.7**2, "a circle or a name would cover another one"


@pytest.mark.parametrize("count", [0, 1, 2])
def test_the_smallest_graphs_are_drawn(count: int) -> None:
    names = ("n1", "n2")[:count]
    assert len(lay_out(Graph(names, ())).positions) == count


def test_the_drawing_has_each_node_and_each_link_and_no_inline_style() -> None:
    graph = graphs()[0]
    drawn = draw_graph(graph)
    assert (drawn.count("<circle"), drawn.count("<line")) == (50, len(graph.edges))
    assert "style" not in drawn
    assert drawn == draw_graph(graph)
    large = Graph(tuple(f"n{k}" for k in range(500)), ())
    assert 'class="name"' not in draw_graph(large), "names would cover each other"


# -- what is kept -------------------------------------------------------------------------------


def test_the_history_keeps_an_hour_and_does_not_grow() -> None:
    history = History()
    for k in range(2 * SAMPLES):
        rows = [node("n1", round_ms=float(k), silent=k % 3, round=k, pool=4, pool_size=8)]
        assert history.add(rows, SAMPLE_S * k) is not None
        assert history.add(rows, SAMPLE_S * k + 1.0) is None, "not yet time for a sample"
    assert len(history.fleet) == SAMPLES
    kept = history.node("n1")
    assert {len(values) for values in kept.values()} == {SAMPLES}
    assert kept["round_ms"][-2:] == [2.0 * SAMPLES - 2, 2.0 * SAMPLES - 1]
    assert kept["round_ms"][0] == SAMPLES
    assert kept["pool"][-1] == 0.5
    history.add([], SAMPLE_S * 2 * SAMPLES)
    assert set(history.node("n1")["round_ms"]) == {None}, "a node that has left is forgotten"


def test_a_sample_counts_only_nodes_that_are_present() -> None:
    history = History()
    rows = [
        node("n1", round=10, round_ms=100.0, silent=1, pool=8, pool_size=8),
        node("n2", round=13, round_ms=300.0, silent=2, pool=2, pool_size=8),
        node("n3", "lost", round=1, round_ms=9e9, silent=9, pool=0, pool_size=8),
        node("n4", stale=True, round=1, round_ms=9e9),
        NodeStatus("n5", ABSENT, stale=False, age_s=None),
    ]
    sample = history.add(rows, 1.0)
    assert sample is not None
    assert (sample.median_ms, sample.worst_ms, sample.silent) == (200.0, 300.0, 3)
    assert (sample.pool, sample.rounds) == (0.25, 3)
    assert history.node("n3")["round_ms"] == [None]


def test_a_clock_that_went_back_does_not_stop_the_history() -> None:
    history = History()
    assert history.add([node()], 10_000.0)
    assert history.add([node()], 20.0)
    assert history.add([node()], 25.0)


def found_events(*views: View) -> list[tuple[str, str | None, str]]:
    finder = EventFinder()
    events = [event for k, each in enumerate(views) for event in finder.find(each, float(k))]
    return [(event.kind, event.node, event.text) for event in events]


def test_events_are_what_has_changed() -> None:
    absent = NodeStatus("n1", ABSENT, stale=False, age_s=None)
    assert found_events(view(absent), view(node())) == [("joined", "n1", "has joined")]
    assert found_events(view(node()), view(node(epoch=6))) == [
        ("joined", "n1", "has started again")
    ]
    assert found_events(view(node()), view(node(state="lost")), view(node(state="lost"))) == [
        ("lost", "n1", "is lost, was ready")
    ]
    assert found_events(view(node()), view(node(stale=True)))[0][0] == "stale"
    assert found_events(view(node()), view(node(unanswered_s=9)))[0][0] == "alert"
    assert found_events(view(node(settled=False)), view(node(settled=True, round=9))) == [
        ("settled", "n1", "has settled at round 9")
    ]
    assert found_events(view(node()), view(node(refused=3)))[0][2].startswith("3 messages")
    assert found_events(view(node()), view(node(), node("n2"))) == [
        ("added", "n2", "is a new member")
    ]
    assert found_events(view(node(), node("n2")), view(node())) == [
        ("revoked", "n2", "is not a member any more")
    ]
    assert found_events(view(node()), view(node(), connected=False)) == [
        ("broker", None, "is unreachable")
    ]
    assert found_events(view(), view(membership=(4, 120))) == [
        ("membership", None, "version 4 of the membership takes effect at round 120")
    ]
    assert found_events(view(node(age_s=1.0)), view(node(age_s=2.0, round=8))) == []


def message_of(data: bytes) -> tuple[str, Any]:
    name, text = data.decode().removesuffix("\n\n").split("\n")
    return name.removeprefix("event: "), json.loads(text.removeprefix("data: "))


def test_a_change_holds_only_what_has_changed_and_the_snapshot_holds_all() -> None:
    state = PageState("yard", "live")
    assert message_of(state.take(view(node(), node("n2")), 100.0))[1]["graph"] == draw_graph(PAIR)
    name, change = message_of(state.take(view(node(age_s=2.0), node("n2", round=3)), 101.0))
    assert (name, [row["node"] for row in change["nodes"]]) == ("change", ["n2"])
    assert "graph" not in change
    _, change = message_of(state.take(view(node("n1", age_s=0.5)), 102.0))
    assert change["removed"] == ["n2"]
    assert [row["node"] for row in change["nodes"]] == ["n1"], "a report without news was heard"
    assert change["nodes"][0]["heard_at"] == 101.5
    name, whole = message_of(state.snapshot())
    assert (name, whole["fleet"], whole["at"]) == ("snapshot", "yard", 102.0)
    assert [row["node"] for row in whole["nodes"]] == ["n1"]
    assert [event["kind"] for event in whole["events"]] == ["revoked"]


def test_events_are_bounded() -> None:
    state = PageState("yard", "live")
    for k in range(3 * MAX_EVENTS):
        state.take(view(node(epoch=k)), float(k))
    assert len(message_of(state.snapshot())[1]["events"]) == MAX_EVENTS


# -- one sender, many browsers ------------------------------------------------------------------


def test_a_browser_that_does_not_read_holds_nothing_back_and_gets_the_whole_state_later() -> None:
    async def run() -> None:
        hub = Broadcaster(lambda: b"whole")
        stuck, reader = hub.stream(), hub.stream()
        assert [await anext(stuck), await anext(reader)] == [b"whole", b"whole"]
        for k in range(100 * MAX_WAITING):
            hub.send(b"%d" % k)
            assert await anext(reader) == b"%d" % k
        found = await anext(stuck)
        assert found == b"whole", "it has missed changes"
        assert sum(queue.qsize() for queue in hub._queues) <= MAX_WAITING
        hub.close()
        assert [each async for each in reader] == []
        await stuck.aclose()  # type: ignore[attr-defined]
        assert hub.clients == 0

    asyncio.run(run())


def test_a_silent_stream_is_pinged_and_clients_are_bounded() -> None:
    async def run() -> None:
        hub = Broadcaster(lambda: b"whole", ping_s=0.01)
        streams = [hub.stream() for _ in range(MAX_CLIENTS)]
        for stream in streams:
            await anext(stream)
        assert hub.is_full
        assert await anext(streams[0]) == PING
        status, _, _ = await ask("/events", hub=hub)
        assert status == 503
        for stream in streams:
            await stream.aclose()  # type: ignore[attr-defined]
        assert not hub.is_full

    asyncio.run(run())


# -- access -------------------------------------------------------------------------------------


async def ask(
    path: str,
    host: str = "127.0.0.1:8080",
    *,
    access: Access = Access("127.0.0.1"),  # noqa: B008  # frozen
    method: str = "GET",
    cookie: str = "",
    hub: Broadcaster | None = None,
) -> tuple[int, dict[str, str], str]:
    """The status, the headers and the text with which the page answers."""
    state = PageState("yard", "live")
    state.take(view(node(), node("n2")), 1.0)
    app = make_app(state, hub or Broadcaster(state.snapshot), access)
    plain, _, query = path.partition("?")
    headers = [(b"host", host.encode()), (b"cookie", cookie.encode())]
    scope = {
        "type": "http", "method": method, "path": plain, "raw_path": plain.encode(),
        "query_string": query.encode(), "headers": headers, "scheme": "http",
        "server": ("127.0.0.1", 8080), "client": ("127.0.0.1", 1), "root_path": "",
    }  # fmt: skip
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    found = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    body = b"".join(each.get("body", b"") for each in sent[1:])
    return sent[0]["status"], found, body.decode()


def asked(path: str, *arguments: Any, **options: Any) -> tuple[int, dict[str, str], str]:
    return asyncio.run(ask(path, *arguments, **options))


def test_each_answer_has_a_strict_policy_and_the_document_has_no_inline_code() -> None:
    for path in ("/", *(f"/{name}" for name in FILES), "/node/n1", "/favicon.ico", "/nothing"):
        status, headers, _ = asked(path)
        assert status == (404 if path == "/nothing" else 200)
        assert headers["content-security-policy"] == POLICY
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
    assert POLICY.startswith(
        "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; "
        "img-src 'self' data:"
    )
    text = asked("/")[2]
    assert draw_graph(PAIR) in text, "the graph is there before the first report"
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", text)
    assert not re.search(r"(src|href)=\"(https?:)?//", text)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 200), ("localhost:8080", 200), ("[::1]:8080", 200),
        ("10.0.0.7:9000", 200),  # behind a tunnel or another address: no name can be rebound to it
        ("evil.example:8080", 403), ("localhost.evil.example", 403), ("", 403), ("[", 403),
        ("127.0.0.1.evil.example", 403), ("evil.example@127.0.0.1", 403),
    ],
)  # fmt: skip
def test_a_request_for_the_name_of_another_site_is_refused(host: str, status: int) -> None:
    assert asked("/", host)[0] == status
    assert asked("/node/n1", host)[0] == status


def test_with_a_token_every_request_needs_it() -> None:
    access = Access("fleet.local", "0123456789abcdef")
    for path in ("/", "/node/n1", "/page.js", "/events"):
        assert asked(path, access=access)[0] == 401
        assert asked(path, access=access, cookie="cipherfleet-page=0123456789abcdeX")[0] == 401
    assert asked("/?token=wrong", access=access)[0] == 401
    status, headers, _ = asked("/?token=0123456789abcdef", "fleet.local:8080", access=access)
    assert (status, headers["location"]) == (303, "/")
    assert "HttpOnly" in headers["set-cookie"]
    assert "SameSite=strict" in headers["set-cookie"]
    cookie = headers["set-cookie"].split(";")[0]
    assert asked("/node/n1", access=access, cookie=cookie)[0] == 200


def test_the_page_only_shows() -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert asked("/", method=method)[0] == 405
    assert asked("/node/n9")[0] == 404
    assert asked("/../page.js")[0] == 404


def test_other_machines_need_a_token() -> None:
    assert access_problem(PageOptions()) is None
    assert access_problem(PageOptions(host="::1")) is None
    assert "needs --token" in str(access_problem(PageOptions(host="0.0.0.0")))
    assert "has 3 characters" in str(access_problem(PageOptions(token="abc")))
    assert access_problem(PageOptions(host="0.0.0.0", token="0123456789abcdef")) is None


def ended(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--page", "--host", "0.0.0.0"], "needs --token"),
        (["--port", "8080"], "--port is an option of --page"),
        (["--page", "--json"], "--page cannot be combined"),
    ],
)
def test_wrong_options_are_one_line_and_exit_code_2(arguments: Sequence[str], text: str) -> None:
    done = ended("fleet.yaml", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_the_extra_the_command_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['uvicorn'] = None; sys.argv = ['cipherfleet', 'watch', 'x.yaml', "
        "'--page']; from cipherfleet_deploy.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("cipherfleet: this command needs uvicorn, which is not installed")
    assert len(done.stderr.splitlines()) == 1


# -- files of others ----------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [Path(str(STATIC)), ROOT / "tests" / "data" / "axe"])
def test_files_of_others_are_those_of_the_version_that_is_named(folder: Path) -> None:
    for package in json.loads((folder / "vendored.json").read_text()).values():
        for name, entry in package["files"].items():
            data = (folder / name).read_bytes()
            data = gzip.decompress(data) if name.endswith(".gz") else data
            assert hashlib.sha256(data).hexdigest() == entry["sha256"], name


def test_the_browser_knows_every_state_in_the_order_of_the_table() -> None:
    text = (STATIC / "page.js").read_text()
    (signs,) = re.findall(r"const SIGNS = \{(.*?)\};", text, re.S)
    assert [name for name in re.findall(r"(\w+):", signs) if name != "settled"] == list(ORDER)
    style = (STATIC / "page.css").read_text()
    assert all(f".s-{name}" in style for name in ORDER)
    assert "innerHTML" not in text
    assert (STATIC / DOCUMENT).is_file()


# -- recordings ---------------------------------------------------------------------------------


def test_a_recording_is_shown_with_its_history_and_its_events(tmp_path: Path) -> None:
    names = [f"n{k}" for k in range(1, 21)]
    write_recording(tmp_path / "record.jsonl", names, minutes=5)
    state = replay(tmp_path / "record.jsonl", Graph(tuple(names), ()))
    _, whole = message_of(state.snapshot())
    assert (len(whole["nodes"]), len(whole["history"])) == (20, 60)
    assert whole["source"] == "recording record.jsonl"
    assert whole["summary"]["standing"]["lost"] == 2
    assert {"lost", "stale", "alert", "settled"} <= {event["kind"] for event in whole["events"]}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "is empty"), ("{}\n", ":1: is no watch-result"), ("\xff\n", ":1: is no watch-result"),
        ('{"at":1,"fleet":"<b>","connected":true,"summary":SUMMARY,"nodes":[]}\n', "a name or"),
    ],
)  # fmt: skip
def test_a_wrong_recording_is_reported_with_its_line(text: str, found: str, tmp_path: Path) -> None:
    (result,) = recording(["n1"], 1)
    summary = msgspec.json.encode(result.summary).decode()
    file = tmp_path / "record.jsonl"
    file.write_text(text.replace("SUMMARY", summary), encoding="latin-1")
    with pytest.raises(ConfigError, match=found):
        replay(file, PAIR)
    with pytest.raises(ConfigError, match="No such file"):
        replay(tmp_path / "missing", PAIR)
