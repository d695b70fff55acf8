"""The page of `cipherfleet watch --page` in a real browser, on real daemons and on recordings."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from cipherfleet_broker import start_broker
from cipherfleet_deploy.local.processes import LocalFleet
from cipherfleet_node.settings.sections import Broker, Simulation
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.fleet.fleet import load_fleet
from tests.support.browser import Page, open_browser
from tests.support.launcher import shared_launcher
from tests.support.page_recording import write_recording
from tests.support.page_server import PageServer, serve_page
from tests.support.paths import ROOT
from tests.tools.page_load import measure

AXE = ROOT / "tests" / "data" / "axe" / "axe.min.js.gz"
VIEWS = ("fleet", "rounds", "node/mote10", "events")
TURNED_S = 60.0  # 15 s on a machine that is not busy
PATIENCE_S = 120.0  # for what has no claim of time; a busy machine is slow
visits = count()
YARD = """\
config_version: 1
fleet: yard
crypto: {key_bits: 512, allow_weak_keys: true}
algorithm: {rounds: 1000000, period_s: 0.3, answer_timeout_s: 10}
objective: {kind: average, values: [{field: t}]}
topology: {kind: complete}
nodes:
  - {each: 4, id: "n{n}", sensor: {kind: csv, path: t.csv, where: {room: "{n}"}}}
"""
STATES = "Object.fromEntries([...state.nodes.values()].map((row) => [row.node, row.standing]))"
CLASSES = """Object.fromEntries([...document.querySelectorAll("#graph .node")].map(
  (node) => [node.dataset.node, node.getAttribute("class").replace("node s-", "")]))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with open_browser() as page:
        yield page


@dataclass
class Fifty:
    """A server that shows a recording of the fifty motes of examples/intel_lab."""

    page: Page
    server: PageServer

    def show(self, view: str) -> None:
        """Load the page at *view*; the number makes it another address, hence a new document."""
        self.page.open(f"{self.server.address}?{next(visits)}#{view}")
        self.page.wait_for("state.summary !== null", PATIENCE_S)
        name = view.partition("/")[0]
        self.page.wait_for(f"!document.getElementById('view-{name}').hidden", PATIENCE_S)


@pytest.fixture(scope="module")
def fifty(browser: Page, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fifty]:
    file, record = (
        ROOT / "examples/intel_lab/fleet.yaml",
        tmp_path_factory.mktemp("record") / "record.jsonl",
    )
    write_recording(record, load_fleet(file).graph.ids, minutes=3)
    with serve_page(file, "--replay", record) as server:
        yield Fifty(browser, server)


def assert_only_own_requests(page: Page, address: str) -> None:
    foreign = {url for url in page.requests if urlsplit(url).netloc != urlsplit(address).netloc}
    assert len(page.requests) > 5
    assert not {url for url in foreign if not url.startswith(("data:", "about:"))}


def problems_of(page: Page) -> list[str]:
    """The errors that the page caused itself: a server that was stopped is not one of them."""
    return [each for each in page.problems if "ERR_CONNECTION_REFUSED" not in each]


# -- real daemons -------------------------------------------------------------------------------


@pytest.mark.fleet
def test_a_killed_node_turns_and_a_restarted_broker_is_recovered_from(
    browser: Page, tmp_path: Path
) -> None:
    """The last will of a killed node comes at once; without it, three missing reports take 15 s."""
    rows = "".join(f"{n},{20 + n}.25\n" for n in range(1, 5))
    (tmp_path / "t.csv").write_text("room,t\n" + rows)
    (tmp_path / "fleet.yaml").write_text(YARD)
    fleet = load_fleet(tmp_path / "fleet.yaml")
    browser.requests.clear()
    browser.problems.clear()
    with start_broker("embedded") as broker:
        address = Broker(host=broker.host, port=broker.port)
        bundles = write_bundles(fleet, tmp_path / "out/nodes", address, Simulation(seed=7))
        with LocalFleet(bundles, 600.0, launcher=shared_launcher()) as nodes:
            with serve_page(tmp_path / "out") as server:
                browser.open(server.address)
                drawn = browser.evaluate("document.querySelectorAll('#graph circle').length")
                assert drawn == 4, "the configured graph is there before any node is"
                nodes.start()
                everybody = json.dumps(dict.fromkeys(("n1", "n2", "n3", "n4"), "ready"))
                _wait_for_classes(browser, everybody)
                browser.wait_for("state.summary.lowest_round > 2", PATIENCE_S)
                browser.wait_for("state.history.length > 1", PATIENCE_S)
                nodes.kill("n3")
                browser.wait_for(f"{CLASSES}.n3 === 'lost'", TURNED_S)
                label = "document.querySelector('[data-node=n3]').getAttribute('aria-label')"
                assert browser.evaluate(label).startswith("n3: lost")
                browser.wait_for("state.events.some((e) => e.kind === 'lost' && e.node === 'n3')")

                broker.stop()
                connection = "document.getElementById('connection').textContent"
                browser.wait_for(f"{connection}.startsWith('BROKER UNREACHABLE')", PATIENCE_S)
                rounds = browser.evaluate("state.summary.highest_round")
                with start_broker("embedded", broker.port):
                    browser.wait_for(f"{connection} === 'live'", PATIENCE_S)
                    browser.wait_for(f"state.summary.highest_round > {rounds}", PATIENCE_S)
                    browser.wait_for(f"{CLASSES}.n1 === 'ready'", PATIENCE_S)
                    kinds = browser.evaluate("state.events.map((e) => e.text)")
                    assert kinds.index("is unreachable") < kinds.index("is reachable")
                    assert_only_own_requests(browser, server.address)
                    assert not problems_of(browser)
            browser.wait_for(f"{connection}.startsWith('NO CONNECTION')", PATIENCE_S)


def _wait_for_classes(page: Page, wanted: str) -> None:
    order = "JSON.stringify(Object.entries(X).sort())"
    found = order.replace("X", CLASSES)
    page.wait_for(f"{found} === {order.replace('X', f'({wanted})')}", PATIENCE_S)


# -- fifty nodes --------------------------------------------------------------------------------


def test_no_view_causes_an_error_or_a_request_to_another_site(fifty: Fifty) -> None:
    fifty.show("fleet")  # leaves the page of the previous test
    fifty.page.requests.clear()
    fifty.page.problems.clear()
    for view in VIEWS:
        fifty.show(view)
        assert fifty.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
    fifty.page.wait_for("document.querySelectorAll('#events tbody tr').length > 5")
    assert fifty.page.evaluate("state.source") == "recording record.jsonl"
    assert_only_own_requests(fifty.page, fifty.server.address)
    assert fifty.page.problems == []
    blocked = "fetch('https://example.com/').then(() => 'sent', () => 'blocked')"
    assert fifty.page.evaluate(blocked) == "blocked"
    assert any("Content Security Policy" in each for each in fifty.page.problems), (
        "a request to another site would not be seen"
    )


def test_names_of_fifty_nodes_do_not_cover_each_other(fifty: Fifty) -> None:
    fifty.show("fleet")
    found = fifty.page.evaluate("""(() => {
      const boxes = [...document.querySelectorAll("#graph .name, #graph circle")].map((each) =>
        [each.parentNode.dataset.node, each.getBoundingClientRect()]);
      const pairs = [];
      for (const [one, a] of boxes) for (const [other, b] of boxes) {
        if (one >= other) continue;
        const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (across > 2 && down > 2) pairs.push([one, other]);
      }
      return {names: boxes.length, pairs, size: parseFloat(getComputedStyle(
        document.querySelector("#graph .name")).fontSize) * document.querySelector("#graph")
        .getScreenCTM().a};
    })()""")
    assert found["names"] == 100
    assert found["pairs"] == []
    assert found["size"] >= 10, "pixels of the names on the screen"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_passes_the_rules_of_axe_core(fifty: Fifty, scheme: str) -> None:
    """Labels, roles, order of headings, contrast: WCAG 2.1 A and AA, and axe's best practices."""
    fifty.page.prefer(scheme)
    colours: dict[str, Any] = {}
    for view in VIEWS:
        fifty.show(view)
        colours["page"] = fifty.page.evaluate("getComputedStyle(document.body).backgroundColor")
        fifty.page.evaluate(gzip.decompress(AXE.read_bytes()).decode() + ";0")
        # The rule of frames does not apply; a chart is an image with a label.
        result = fifty.page.evaluate("axe.run(document).then((found) => found.violations)")
        found = [(each["id"], [node["html"] for node in each["nodes"]][:3]) for each in result]
        assert found == [], f"{view}, {scheme}"
    light, dark = "rgb(253, 253, 252)", "rgb(22, 24, 28)"
    assert colours["page"] == (dark if scheme == "dark" else light)


def test_axe_core_finds_what_is_wrong(fifty: Fifty) -> None:
    fifty.show("fleet")
    fifty.page.evaluate(gzip.decompress(AXE.read_bytes()).decode() + ";0")
    fifty.page.evaluate("document.querySelector('#graph .node').removeAttribute('aria-label')")
    fifty.page.evaluate("document.querySelector('#graph .node title').remove()")
    fifty.page.evaluate("document.querySelectorAll('#graph .node text').forEach((t) => t.remove())")
    result = fifty.page.evaluate("axe.run(document).then((found) => found.violations)")
    assert "link-name" in {each["id"] for each in result}


def test_nodes_are_reached_and_opened_with_the_keyboard(fifty: Fifty) -> None:
    fifty.show("fleet")
    focus = "document.activeElement.dataset.node ?? document.activeElement.textContent.trim()"
    seen = []
    for _ in range(8):
        fifty.page.press("Tab")
        seen.append(fifty.page.evaluate(focus))
    assert seen[:5] == ["Skip to the content", "Fleet", "Rounds", "Node", "Events"]
    assert seen[5:] == ["mote01", "mote02", "mote03"]
    outline = "getComputedStyle(document.activeElement.querySelector('circle')).stroke"
    assert fifty.page.evaluate(outline) == fifty.page.evaluate(
        "getComputedStyle(document.body).color"
    )
    near = fifty.page.evaluate("document.querySelectorAll('#graph line.near').length")
    assert near == fifty.page.evaluate("state.near.get('mote03').length"), "its links stand out"
    fifty.page.press("Enter")
    fifty.page.wait_for("!document.getElementById('view-node').hidden")
    assert fifty.page.evaluate("document.getElementById('node-choice').value") == "mote03"


# -- many nodes, many messages ------------------------------------------------------------------


@pytest.mark.fleet
def test_two_hundred_nodes_are_drawn_and_a_flood_leaves_little_behind(browser: Page) -> None:
    """The claims of time and memory: python -m tests.tools.page_load --gate. Here the counts."""
    result = measure(browser, nodes=200, rate=250, seconds=4.0)
    assert result.circles == 200
    assert result.messages > 200
    assert result.highest_round > 1
    assert result.server_growth_mib < 60
    assert result.page_growth_mib < 30
