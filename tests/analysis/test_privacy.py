"""The privacy audit on graphs whose result is known.

All of it is in one file: one audit of a graph makes findings on every subject, and the tests share
the graphs and the ways to pick findings.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cipherfleet_analysis.privacy import linear_disclosure as sealed_sums
from cipherfleet_analysis.privacy.audit import Privacy, check_privacy
from cipherfleet_analysis.privacy.disclosure import Disclosure
from cipherfleet_analysis.privacy.linear_disclosure import identifiable_nodes
from cipherfleet_node.core.exchange import metropolis
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.findings import LEVELS, Finding
from cipherfleet_node.settings.sections import ExchangeName
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet
from cipherfleet_provisioning.topology.build import build_graph
from cipherfleet_provisioning.topology.graph import Graph
from cipherfleet_provisioning.topology.section import Topology, TopologyError

Vector = npt.NDArray[np.float64]

SENSOR = "sensor: {kind: synthetic, fields: {t: {mean: 1}, u: {mean: 1}}}"
ONE = "[{field: t}]"
TWO = "[{field: t}, {field: u}]"
SQUARE_AND_TAIL = "[[a, b], [b, c], [c, d], [d, a], [d, e]]"
CLIQUES = (
    "[[a, b], [b, c], [a, c], [c, d], [d, e], [e, f], [d, f]]"  # two triangles and a bridge c - d
)
EXCHANGES: list[ExchangeName] = ["pairwise", "sealed"]


def fleet_of(
    folder: Path,
    topology: str,
    owners: Mapping[str, str] | None = None,
    nodes: str = "abcdef",
    objective: str = f"kind: mean, values: {TWO}",
    head: str = "",
    algorithm: str = "rounds: 50",
) -> Fleet:
    entries = (
        f"  - {{id: {n}, {SENSOR}{f', owner: {owners[n]}' if n in (owners or {}) else ''}}}\n"
        if owners
        else f"  - {{id: {n}, {SENSOR}}}\n"
        for n in nodes
    )
    file = folder / "fleet.yaml"
    file.write_text(
        f"config_version: 1\nfleet: lab\nalgorithm: {{{algorithm}}}\n{head}"
        f"objective: {{{objective}}}\ntopology: {topology}\nnodes:\n{''.join(entries)}"
    )
    return load_fleet(file)


def edges(text: str) -> str:
    return f"{{edges: {text}}}"


def findings_about(privacy: Privacy, subject: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(f.level, f.nodes) for f in privacy.findings if f.subject == subject]


def only(privacy: Privacy, subject: str) -> Finding:
    (finding,) = (f for f in privacy.findings if f.subject == subject)
    return finding


def levels(privacy: Privacy) -> set[str]:
    return {finding.level for finding in privacy.findings}


# -- the graph ----------------------------------------------------------------------------------


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_ring_of_strangers_has_few_neighbours_only(
    exchange: ExchangeName, tmp_path: Path
) -> None:
    privacy = check_privacy(fleet_of(tmp_path, "{kind: ring}"), exchange)
    warned = [f.subject for f in privacy.findings if f.level not in ("ok", "note")]
    assert warned == (["separation"] if exchange == "sealed" else [])
    assert findings_about(privacy, "leaf") == [("ok", ())]
    assert findings_about(privacy, "cut") == [("ok", ())]
    assert findings_about(privacy, "bridge") == []


def test_the_leaves_of_a_star_are_seen_through_by_its_hub(tmp_path: Path) -> None:
    plain = fleet_of(tmp_path, "{kind: star}", algorithm="rounds: 50, method: article")
    privacy = check_privacy(plain, "pairwise")
    assert findings_about(privacy, "leaf") == [("warn", tuple("bcdef"))]
    assert findings_about(privacy, "cut") == [("warn", ("a",))]
    assert findings_about(privacy, "bridge") == [], "links to leaves are reported with the leaves"
    assert (
        "gradient to 10 % after 10 (34) rounds, to 5 % after 20 (134) rounds"
        in only(privacy, "leaf").text
    )


def test_with_the_exact_method_the_hub_of_a_star_learns_the_gradients_exactly(
    tmp_path: Path,
) -> None:
    privacy = check_privacy(fleet_of(tmp_path, "{kind: star}"), "pairwise")
    assert "its gradient at the optimum exactly" in only(privacy, "leaf").text
    many = [row.many_rounds for row in privacy.who_learns_what]
    assert any("its gradient at the optimum exactly" in text for text in many)
    assert not any("gradient to 10 %" in text for text in many)


def test_in_plain_averaging_the_hub_learns_every_value(tmp_path: Path) -> None:
    fleet = fleet_of(tmp_path, "{kind: star}", objective=f"kind: average, values: {ONE}")
    privacy = check_privacy(fleet, "pairwise")
    assert findings_about(privacy, "leaf") == [("fail", tuple("bcdef"))]
    assert "its own value exactly" in only(privacy, "leaf").text
    assert findings_about(privacy, "telescoping") == [], "no gradients, nothing to average"


@pytest.mark.parametrize("topology", ["{kind: star}", "{kind: line}"])
def test_the_sealed_exchange_cannot_run_with_leaves(topology: str, tmp_path: Path) -> None:
    privacy = check_privacy(fleet_of(tmp_path, topology), "sealed")
    assert [level for level, _ in findings_about(privacy, "leaf")] == ["fail"]


def test_a_line_is_cut_at_every_inner_node(tmp_path: Path) -> None:
    privacy = check_privacy(fleet_of(tmp_path, "{kind: line}"), "pairwise")
    assert findings_about(privacy, "leaf") == [("warn", ("a", "f"))]
    assert findings_about(privacy, "cut") == [("warn", tuple("bcde"))]
    assert findings_about(privacy, "bridge") == [("note", tuple("bcde"))]
    assert "3 links" in only(privacy, "bridge").text


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_two_cliques_hang_together_by_one_bridge(exchange: ExchangeName, tmp_path: Path) -> None:
    privacy = check_privacy(fleet_of(tmp_path, edges(CLIQUES)), exchange)
    assert findings_about(privacy, "leaf") == [("ok", ())]
    assert findings_about(privacy, "cut") == [("warn", ("c", "d"))]
    assert findings_about(privacy, "bridge") == [("note", ("c", "d"))]
    assert "c - d" in only(privacy, "bridge").text
    sums = "the sum over a whole part" in only(privacy, "cut").text
    assert sums == (exchange == "pairwise")


# -- owners -------------------------------------------------------------------------------------


def test_an_owner_of_all_neighbours_fails_the_check(tmp_path: Path) -> None:
    """In the ring a - b - c - d - e - f, b's neighbours a and c have one owner."""
    fleet = fleet_of(tmp_path, "{kind: ring}", {"a": "acme", "c": "acme"})
    privacy = check_privacy(fleet, "pairwise")
    assert findings_about(privacy, "surrounded") == [("fail", ("b",))]
    assert "owner 'acme'" in only(privacy, "surrounded").text
    assert findings_about(privacy, "estimate") == [], "reported with the flow"


def test_sealed_sums_hide_a_surrounded_node_behind_those_beyond(tmp_path: Path) -> None:
    """a asks b and f, c asks b and d: every sum has a second unknown."""
    fleet = fleet_of(tmp_path, "{kind: ring}", {"a": "acme", "c": "acme"})
    privacy = check_privacy(fleet, "sealed")
    assert findings_about(privacy, "surrounded") == [("warn", ("b",))]
    assert "fail" not in levels(privacy)


def test_an_owner_of_an_asker_and_its_other_neighbours_isolates_the_last(tmp_path: Path) -> None:
    """a asks b and f; with f of a's owner, b's term is left. Likewise e for f."""
    fleet = fleet_of(tmp_path, "{kind: ring}", {"a": "acme", "f": "acme"})
    assert findings_about(check_privacy(fleet, "sealed"), "isolated")[0] == ("warn", ("b", "e"))
    assert findings_about(check_privacy(fleet, "pairwise"), "isolated") == []


def test_an_owner_that_isolates_from_all_sides_fails_even_sealed(tmp_path: Path) -> None:
    """c's neighbours a and b, and f's neighbours d and e, have no other foreign neighbour."""
    graph = edges("[[a, c], [b, c], [a, d], [b, e], [d, e], [d, f], [e, f]]")
    fleet = fleet_of(tmp_path, graph, dict.fromkeys("abde", "acme"))
    assert findings_about(check_privacy(fleet, "sealed"), "surrounded") == [("fail", ("c", "f"))]


def test_owners_of_nodes_beside_their_own_see_nothing_new(tmp_path: Path) -> None:
    fleet = fleet_of(
        tmp_path, "{kind: ring}", dict.fromkeys("abc", "x") | dict.fromkeys("def", "y")
    )
    privacy = check_privacy(fleet, "pairwise")
    assert findings_about(privacy, "owner") == [("ok", ())]
    assert "fail" not in levels(privacy)
    assert "warn" not in levels(privacy)


def test_a_leaf_beside_its_own_owner_is_in_order_but_cannot_seal(tmp_path: Path) -> None:
    fleet = fleet_of(tmp_path, edges(SQUARE_AND_TAIL), {"d": "acme", "e": "acme"}, nodes="abcde")
    assert findings_about(check_privacy(fleet, "pairwise"), "leaf") == [("ok", ("e",))]
    assert findings_about(check_privacy(fleet, "sealed"), "leaf") == [("fail", ("e",))]


def test_two_nodes_of_an_owner_beside_a_third_triangulate_it(tmp_path: Path) -> None:
    """c has the neighbours a, b and d; with two entries, two of them are enough."""
    graph = edges("[[a, c], [b, c], [c, d], [a, d], [b, d]]")
    owners = {"a": "acme", "b": "acme"}
    mean = fleet_of(tmp_path, graph, owners, nodes="abcd")
    assert findings_about(check_privacy(mean, "pairwise"), "estimate") == [("warn", ("c", "d"))]
    average = fleet_of(tmp_path, graph, owners, "abcd", f"kind: average, values: {TWO}")
    assert findings_about(check_privacy(average, "pairwise"), "estimate") == [("fail", ("c", "d"))]
    scalar = fleet_of(tmp_path, graph, owners, "abcd", f"kind: mean, values: {ONE}")
    assert findings_about(check_privacy(scalar, "pairwise"), "estimate") == []


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_an_owner_of_all_nodes_but_one_needs_no_exchange(
    exchange: ExchangeName, tmp_path: Path
) -> None:
    fleet = fleet_of(tmp_path, "{kind: complete}", dict.fromkeys("abcde", "acme"))
    privacy = check_privacy(fleet, exchange)
    assert findings_about(privacy, "answer") == [("fail", ("f",))]
    assert findings_about(privacy, "surrounded") == [("fail", ("f",))]


def test_two_strangers_learn_each_others_share_from_the_answer(tmp_path: Path) -> None:
    privacy = check_privacy(fleet_of(tmp_path, "{kind: line}", nodes="ab"), "pairwise")
    assert findings_about(privacy, "answer") == [("fail", ("b",)), ("fail", ("a",))]


def test_an_owner_named_like_a_node_is_somebody_else(tmp_path: Path) -> None:
    fleet = fleet_of(tmp_path, "{kind: ring}", {"a": "b", "c": "b"})
    assert findings_about(check_privacy(fleet, "pairwise"), "surrounded") == [("fail", ("b",))]


def test_owners_of_a_row_take_its_number(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    text = (
        "config_version: 1\nfleet: lab\nalgorithm: {rounds: 9}\ntopology: {kind: ring}\n"
        f"objective: {{kind: mean, values: {ONE}}}\nnodes:\n"
        f'  - {{each: 3, id: "m{{n}}", owner: "firm{{n:02}}", {SENSOR}}}\n'
        f"  - {{id: x, {SENSOR}}}\n"
    )
    file.write_text(text)
    assert [m.owner for m in load_fleet(file).members] == ["firm01", "firm02", "firm03", None]
    file.write_text(text.replace("firm{n:02}", "a firm"))
    with pytest.raises(ConfigError, match=r"fleet.yaml:7:\d+: .*owner.* gives the owner 'a firm'"):
        load_fleet(file)


graphs = st.builds(
    lambda n, p, seed: (n, p, seed), st.integers(3, 9), st.floats(0.3, 0.9), st.integers(0, 99)
)


def random_sight(
    shape: tuple[int, float, int], exchange: ExchangeName, fleet: Fleet
) -> Disclosure | None:
    n, p, seed = shape
    topology = Topology(kind="erdos_renyi", probability=p, seed=seed)
    try:
        graph = build_graph(topology, [f"n{i}" for i in range(n)])
    except TopologyError:
        return None
    return Disclosure(replace(fleet, graph=graph), exchange)


@pytest.fixture(scope="module")
def some_fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return fleet_of(tmp_path_factory.mktemp("fleet"), "{kind: ring}")


@given(graphs, st.sets(st.integers(0, 8)), st.integers(0, 8), st.sampled_from(EXCHANGES))
def test_a_larger_coalition_never_sees_fewer_differences_of_the_rest(
    some_fleet: Fleet,
    shape: tuple[int, float, int],
    chosen: set[int],
    joining: int,
    exchange: ExchangeName,
) -> None:
    disclosure = random_sight(shape, exchange, some_fleet)
    if disclosure is None:
        return
    small = {node for node in disclosure.graph.ids if int(node[1:]) in chosen}
    large = small | {node for node in disclosure.graph.ids if int(node[1:]) == joining}
    fewer, more = (
        disclosure.count_isolated_differences(small),
        disclosure.count_isolated_differences(large),
    )
    for node in set(disclosure.graph.ids) - large:
        assert fewer[node] <= more[node]
        assert more[node] <= disclosure.graph.degree(node)
    assert not set(more) & large


@given(graphs, st.sets(st.integers(0, 8)))
def test_sealed_never_shows_more_than_pairwise(
    some_fleet: Fleet, shape: tuple[int, float, int], chosen: set[int]
) -> None:
    pairwise = random_sight(shape, "pairwise", some_fleet)
    if pairwise is None:
        return
    sealed = replace(pairwise, exchange="sealed")
    coalition = {node for node in pairwise.graph.ids if int(node[1:]) in chosen}
    assert sealed.count_isolated_differences(coalition) <= pairwise.count_isolated_differences(
        coalition
    )
    assert sealed.find_disclosed(coalition)["flow"] <= pairwise.find_disclosed(coalition)["flow"]


@given(graphs)
def test_the_only_lone_nodes_that_see_a_flow_are_those_beside_leaves(
    some_fleet: Fleet, shape: tuple[int, float, int]
) -> None:
    disclosure = random_sight(shape, "pairwise", some_fleet)
    if disclosure is None:
        return
    for node in disclosure.graph.ids:
        leaves = {n for n in disclosure.graph.neighbours(node) if disclosure.graph.degree(n) == 1}
        assert disclosure.find_disclosed({node})["flow"] == leaves


class Unknowns:
    """One round's equations of a coalition; a node's estimate is theirs if it has one solution."""

    def __init__(self, disclosure: Disclosure, coalition: Collection[str], seed: int) -> None:
        chance = np.random.default_rng(seed)
        self.disclosure, self.coalition = disclosure, coalition
        self.x = {node: chance.normal(size=2) for node in disclosure.graph.ids}
        self.chance = chance

    def solved(self, node: str) -> bool:
        """Whether the equations have *node*'s true estimate as their only one."""
        system, right, place = getattr(self, f"_{self.disclosure.exchange}")(node)
        found = np.linalg.lstsq(system, right, rcond=None)[0]
        assert np.allclose(system @ found, right), "the true values fulfil them"
        free = np.linalg.svd(system)[2][np.linalg.matrix_rank(system) :]
        return bool(np.all(np.abs(free[:, place]) < 1e-7)) and self._right(found, node, place)

    def _right(self, found: Vector, node: str, place: list[int]) -> bool:
        x, y, *weight = found[place]
        return np.allclose(np.array([x, y]) / (weight or [1.0]), self.x[node], rtol=1e-4, atol=1e-4)

    def _pairwise(self, node: str) -> tuple[Vector, Vector, list[int]]:
        """x_i - D_j / h_ij = x_j: unknown are x_i and the half weights' inverses."""
        near = [n for n in self.disclosure.graph.neighbours(node) if n in self.coalition]
        system = np.zeros((2 * len(near), 2 + len(near)))
        for row, j in enumerate(near):
            system[2 * row : 2 * row + 2, :2] = np.eye(2)
            seen = self.chance.uniform(0.5, 1) * (self.x[node] - self.x[j])
            system[2 * row : 2 * row + 2, 2 + row] = -seen
        return system, np.concatenate([self.x[j] for j in near]), [0, 1]

    def _sealed(self, node: str) -> tuple[Vector, Vector, list[int]]:
        """sum_m M_jm (h_m x_m - h_m x_j) = S_j: unknown are h_m x_m and h_m outside."""
        graph = self.disclosure.graph
        h = {n: self.chance.uniform(0.5, 1) for n in graph.ids}
        outside = [n for n in graph.ids if n not in self.coalition]
        inside = [n for n in graph.ids if n in self.coalition]
        system, right = np.zeros((2 * len(inside), 3 * len(outside))), np.zeros(2 * len(inside))
        for row, j in enumerate(inside):
            rows = slice(2 * row, 2 * row + 2)
            for m in graph.neighbours(j):
                factor = metropolis(graph.degree(j), graph.degree(m)) / 64
                if m in outside:
                    column = 3 * outside.index(m)
                    system[rows, column : column + 2] = factor * np.eye(2)
                    system[rows, column + 2] = -factor * self.x[j]
                    right[rows] += factor * h[m] * (self.x[m] - self.x[j])
        first = 3 * outside.index(node)
        return system, right, [first, first + 1, first + 2]


@given(
    graphs,
    st.sets(st.integers(0, 8), min_size=1),
    st.integers(0, 2**32),
    st.sampled_from(EXCHANGES),
)
def test_an_estimate_that_is_said_to_be_known_can_be_worked_out(
    some_fleet: Fleet,
    shape: tuple[int, float, int],
    chosen: set[int],
    seed: int,
    exchange: ExchangeName,
) -> None:
    """From one round, for every graph and coalition; and no other estimate can."""
    disclosure = random_sight(shape, exchange, some_fleet)
    if disclosure is None:
        return
    coalition = {node for node in disclosure.graph.ids if int(node[1:]) in chosen}
    unknowns = Unknowns(disclosure, coalition, seed)
    known = disclosure.find_disclosed(coalition)["estimate"]
    for node in set(disclosure.graph.ids) - coalition:
        if any(near in coalition for near in disclosure.graph.neighbours(node)):
            assert unknowns.solved(node) == (node in known)


def test_sums_of_two_unknown_nodes_are_solved_together() -> None:
    """Four askers of p and q: 4 d equations for 2 (d + 1) unknowns, were the factors not alike."""
    pairs = [(a, node) for a in "abcd" for node in "pq"]
    alike = Graph(tuple("abcdpq"), tuple(pairs))
    assert identifiable_nodes(alike, "abcd", 2) == frozenset(), "only h_p + h_q and u_p + u_q"
    more = Graph(tuple("abcdpqrstu"), (*pairs, *(("p", other) for other in "rstu")))
    assert identifiable_nodes(more, "abcdrstu", 2) == {"p", "q"}, (
        "p has more neighbours, another factor"
    )
    assert identifiable_nodes(alike, "abcdp", 2) == {"q"}


def test_an_owner_that_solves_for_a_surrounded_node_fails(tmp_path: Path) -> None:
    """No sum has fewer unknowns than p and q; the greater degree of a and b tells them apart."""
    links = [f"[{asker}, {node}]" for asker in "abcd" for node in "pq"]
    links += [f"[a, {other}]" for other in "bcdef"] + [f"[b, {other}]" for other in "cdef"]
    links += ["[q, y]", "[q, z]", "[y, z]"]
    fleet = fleet_of(
        tmp_path, edges(f"[{', '.join(links)}]"), dict.fromkeys("abcdef", "acme"), "abcdefpqyz"
    )
    privacy = check_privacy(fleet, "sealed")
    assert findings_about(privacy, "surrounded") == [("fail", ("p",))]
    assert findings_about(privacy, "estimate") == [("warn", ("q",))]


def test_equations_too_large_are_answered_in_part(
    some_fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fewer = 0
    for seed in range(99):
        disclosure = random_sight((9, 0.5, seed), "sealed", some_fleet)
        if disclosure is None:
            continue
        coalition = disclosure.graph.ids[:6]
        with monkeypatch.context() as small:
            small.setattr(sealed_sums, "MOST_UNKNOWNS", 5)
            part = identifiable_nodes(disclosure.graph, coalition, 2)
        whole = identifiable_nodes(disclosure.graph, coalition, 2)
        assert part <= whole
        alone = disclosure.count_isolated_differences(coalition)
        assert {node for node, count in alone.items() if count > 1} <= part
        fewer += part < whole
    assert fewer > 5


# -- settings -----------------------------------------------------------------------------------


def settings_told(folder: Path, about: str, **of_fleet: Any) -> str:
    return only(
        check_privacy(fleet_of(folder, "{kind: ring}", **of_fleet), "pairwise"), about
    ).level


@pytest.mark.parametrize(
    ("about", "level", "of_fleet"),
    [
        ("keys", "ok", {}),
        ("keys", "note", {"head": "crypto: {allow_weak_keys: true}\n"}),
        ("keys", "fail", {"head": "crypto: {key_bits: 512, allow_weak_keys: true}\n"}),
        ("transport", "note", {}),
        ("transport", "ok", {"head": "broker: {tls: true, host: broker.example}\n"}),
        ("spread", "warn", {"algorithm": "rounds: 9, method: article, stepsize: {spread: 0}"}),
        ("resolution", "note", {"algorithm": "rounds: 9, resolution: 0.01"}),
    ],
)
def test_settings_are_judged(
    about: str, level: str, of_fleet: dict[str, str], tmp_path: Path
) -> None:
    assert settings_told(tmp_path, about, **of_fleet) == level


def test_plain_tcp_to_other_hosts_fails_should_it_ever_be_let_through(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="plain TCP"):
        fleet_of(tmp_path, "{kind: ring}", head="broker: {host: broker.example}\n")
    fleet = fleet_of(tmp_path, "{kind: ring}")
    broker = msgspec.structs.replace(fleet.file.broker, host="broker.example")
    file = msgspec.structs.replace(fleet.file, broker=broker)
    assert findings_about(check_privacy(replace(fleet, file=file), "pairwise"), "transport") == [
        ("fail", ())
    ]


def test_spread_zero_gives_the_gradient_from_one_round(tmp_path: Path) -> None:
    fleet = fleet_of(
        tmp_path, "{kind: ring}", algorithm="rounds: 9, method: article, stepsize: {spread: 0}"
    )
    privacy = check_privacy(fleet, "pairwise")
    assert "exactly, in every single round" in only(privacy, "telescoping").text
    still = fleet_of(
        tmp_path, "{kind: ring}", algorithm="rounds: 9, method: article, stepsize: {spread: 0}",
        objective=f"kind: average, values: {ONE}",
    )  # fmt: skip
    assert findings_about(check_privacy(still, "pairwise"), "spread") == [], "no step is taken"


def test_a_fleet_without_end_gives_observers_all_the_time_they_need(tmp_path: Path) -> None:
    fleet = fleet_of(tmp_path, "{kind: ring}", algorithm="method: article, period_s: 60")
    assert "without end" in only(check_privacy(fleet, "pairwise"), "telescoping").text


def test_the_gravest_findings_come_first(tmp_path: Path) -> None:
    fleet = fleet_of(tmp_path, "{kind: line}", {"a": "x", "c": "x"})
    found = [LEVELS.index(f.level) for f in check_privacy(fleet, "pairwise").findings]
    assert found == sorted(found)
    assert len(set(found)) == 4


# -- the table ----------------------------------------------------------------------------------


def rows(fleet: Fleet, exchange: ExchangeName) -> dict[str, int]:
    return {row.observer: row.count for row in check_privacy(fleet, exchange).who_learns_what}


def test_the_rows_follow_from_the_exchange_in_use(tmp_path: Path) -> None:
    fleet = fleet_of(tmp_path, edges(SQUARE_AND_TAIL), nodes="abcde")
    pairwise, sealed = rows(fleet, "pairwise"), rows(fleet, "sealed")
    assert pairwise["the only neighbour of a leaf"] == 1
    assert pairwise["one neighbour of a node"] == 9
    assert pairwise["two neighbours of a node, colluding"] == 4
    assert not any("of a leaf" in row or "two" in row for row in sealed)
    assert sealed["a node with 1 neighbour"] == 1
    assert (sealed["a node with 2 neighbours"], sealed["a node with 3 neighbours"]) == (3, 1)
    assert {"eavesdropper", "broker"} <= set(pairwise) & set(sealed)


SLOPE = "kind: least_squares, target: {field: t}, features: [{constant: 1}, {field: u}]"


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_statistics_show_more_than_the_optimum_and_the_audit_says_what(
    exchange: ExchangeName, tmp_path: Path
) -> None:
    found = {}
    for method in ("exact", "statistics"):
        fleet = fleet_of(
            tmp_path, "{kind: complete}", {"a": "acme", "b": "acme", "c": "acme", "d": "acme"},
            "abcde", SLOPE, algorithm=f"rounds: 50, method: {method}",
        )  # fmt: skip
        found[method] = check_privacy(fleet, exchange)
        assert ("every node" in rows(fleet, exchange)) == (method == "statistics")
    subjects = {method: {f.subject for f in audit.findings} for method, audit in found.items()}
    assert subjects["statistics"] - subjects["exact"] == {"statistics"}
    texts = {f.subject: f for f in found["statistics"].findings}
    assert texts["statistics"].level == "note"
    assert "every node learns the fleet's mean of the normal equations" in texts["statistics"].text
    assert "learn its normal equations exactly" in texts["telescoping"].text
    assert texts["answer"].text.endswith("is that node's normal equations")
    assert "set algorithm.method: exact" in texts["statistics"].remedy


def test_statistics_of_a_mean_show_no_more_than_the_optimum(tmp_path: Path) -> None:
    fleet = fleet_of(tmp_path, "{kind: ring}", algorithm="rounds: 50, method: statistics")
    assert "every node" not in rows(fleet, "sealed")
    findings = {f.subject: f.text for f in check_privacy(fleet, "sealed").findings}
    assert "statistics" not in findings
    assert "the mean of its readings exactly" in findings["telescoping"]


def neighbours_colluding(fleet: Fleet, exchange: ExchangeName) -> Collection[tuple[int, bool]]:
    return [
        (row.count, "its coupling term" in row.each_round)
        for row in check_privacy(fleet, exchange).who_learns_what
        if row.observer.startswith("all neighbours")
    ]


def test_sealed_hides_a_node_from_all_its_neighbours_unless_they_know_each_other(
    tmp_path: Path,
) -> None:
    ring, complete = (fleet_of(tmp_path, f"{{kind: {kind}}}") for kind in ("ring", "complete"))
    assert neighbours_colluding(ring, "pairwise") == [(6, True)]
    assert neighbours_colluding(ring, "sealed") == [(6, False)]
    assert neighbours_colluding(complete, "sealed") == [(6, True)]
    # in the triangle everybody knows the others; d, e and f have neighbours that are strangers
    mixed = edges("[[a, b], [b, c], [a, c], [c, d], [d, e], [e, f], [f, c]]")
    found = neighbours_colluding(fleet_of(tmp_path, mixed), "sealed")
    assert sum(count for count, flows in found if flows) == 3
    assert sum(count for count, flows in found if not flows) == 3


def test_owners_of_like_sight_share_a_row(tmp_path: Path) -> None:
    nodes = [f"n{i:03}" for i in range(300)]
    owners = {node: f"firm{i // 2}" for i, node in enumerate(nodes)}
    entries = "".join(f"  - {{id: {n}, owner: {owners[n]}, {SENSOR}}}\n" for n in nodes)
    file = tmp_path / "fleet.yaml"
    file.write_text(
        "config_version: 1\nfleet: lab\nalgorithm: {rounds: 9}\n"
        f"objective: {{kind: mean, values: {TWO}}}\n"
        f"topology: {{kind: erdos_renyi, probability: 0.05, seed: 1}}\nnodes:\n{entries}"
    )
    table = check_privacy(load_fleet(file), "pairwise").who_learns_what
    of_owners = [row for row in table if row.observer.startswith("owner")]
    assert sum(row.count for row in of_owners) == 150
    assert len(of_owners) <= 3
    assert len(table) <= 12
    assert all(len(cell) < 220 for row in table for cell in (row.observer, row.each_round))


def test_weak_keys_leave_nothing_that_is_never_learnt(tmp_path: Path) -> None:
    fleet = fleet_of(
        tmp_path, "{kind: ring}", head="crypto: {key_bits: 512, allow_weak_keys: true}\n"
    )
    eavesdropper = check_privacy(fleet, "pairwise").who_learns_what[0]
    assert eavesdropper.observer == "eavesdropper"
    assert eavesdropper.never == "nothing is protected: keys are weak"


@pytest.mark.parametrize(
    ("topology", "spread", "rounds", "is_warned"),
    [
        ("kind: ring", 1, 50, True),
        ("kind: random_regular, degree: 3, seed: 1", 1, 50, True),
        ("kind: random_regular, degree: 4, seed: 1", 1, 1000, False),
        ("kind: random_regular, degree: 4, seed: 1", 1, 1001, True),
        ("kind: random_regular, degree: 4, seed: 1", 0, 50, True),
        ("kind: complete", 1, 4000, False),
    ],
)
def test_sums_of_few_neighbours_separate(
    topology: str, spread: float, rounds: int, is_warned: bool, tmp_path: Path
) -> None:
    algorithm = f"rounds: {rounds}, stepsize: {{spread: {spread}}}"
    fleet = fleet_of(tmp_path, f"{{{topology}}}", algorithm=algorithm)
    found = findings_about(check_privacy(fleet, "sealed"), "separation")
    assert [level for level, _ in found] == ["warn"] * is_warned
    assert findings_about(check_privacy(fleet, "pairwise"), "separation") == []
