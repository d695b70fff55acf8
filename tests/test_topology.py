"""The topology section of fleet.yaml and the graphs it describes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cipherfleet_node.config import Section
from cipherfleet_node.document import parse_document
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.packing import MAX_DEGREE
from cipherfleet_provisioning.topology import (
    KEYS_OF_KIND,
    Graph,
    Topology,
    TopologyError,
    build_graph,
)

PLAIN_KINDS = ["ring", "line", "star", "grid", "complete"]


class Fleet(Section, frozen=True):
    topology: Topology


def names(count: int) -> list[str]:
    return [f"mote{i}" for i in range(1, count + 1)]


def read(text: str) -> Topology:
    return parse_document(f"topology: {text}\n", Path("fleet.yaml")).convert(Fleet).topology


def refusal(text: str, count: int) -> TopologyError:
    with pytest.raises(TopologyError) as caught:
        build_graph(read(text), names(count))
    assert "\n" not in str(caught.value)
    return caught.value


def edges(text: str, count: int) -> list[tuple[int, int]]:
    """The graph's edges as places from 0, in order."""
    graph = build_graph(read(text), names(count))
    return [(graph.ids.index(a), graph.ids.index(b)) for a, b in graph.edges]


def random_topologies() -> st.SearchStrategy[Topology]:
    seeds = st.integers(0, 10**6) | st.none()
    return st.one_of(
        st.sampled_from(PLAIN_KINDS).map(lambda kind: Topology(kind=kind)),
        st.builds(Topology, kind=st.just("random_regular"), degree=st.integers(1, 12), seed=seeds),
        st.builds(
            Topology,
            kind=st.just("erdos_renyi"),
            probability=st.floats(0.05, 1, exclude_min=True),
            seed=seeds,
        ),
        st.builds(Topology, kind=st.just("geometric"), neighbours=st.integers(1, 12), seed=seeds),
    )


# -- what every graph has in common -------------------------------------------------------------


@given(random_topologies(), st.integers(2, 40))
def test_a_graph_that_is_built_is_connected_simple_and_symmetric(
    topology: Topology, count: int
) -> None:
    try:
        graph = build_graph(topology, names(count))
    except TopologyError:
        assume(topology.kind not in PLAIN_KINDS)
        return
    order = {node: place for place, node in enumerate(graph.ids)}
    assert all(order[a] < order[b] for a, b in graph.edges)
    assert list(graph.edges) == sorted(set(graph.edges), key=lambda e: (order[e[0]], order[e[1]]))
    for node in graph.ids:
        assert list(graph.neighbours(node)) == sorted(graph.neighbours(node), key=order.__getitem__)
        assert all(node in graph.neighbours(other) for other in graph.neighbours(node))
        assert 1 <= graph.degree(node) <= MAX_DEGREE
        assert len(graph.distances(node)) == count
    assert sum(map(graph.degree, graph.ids)) == 2 * len(graph.edges)
    assert graph.mean_degree == 2 * len(graph.edges) / count
    assert 1 <= graph.diameter < count


@given(random_topologies(), st.integers(2, 20))
def test_the_same_section_gives_the_same_graph(topology: Topology, count: int) -> None:
    def attempt() -> Graph | str:
        try:
            return build_graph(topology, names(count))
        except TopologyError as error:
            return str(error)

    assert attempt() == attempt()


@pytest.mark.parametrize("kind", PLAIN_KINDS)
def test_plain_kinds_are_connected_for_every_number_of_nodes(kind: str) -> None:
    for count in range(2, MAX_DEGREE + 2):
        assert len(build_graph(Topology(kind=kind), names(count)).ids) == count


def test_a_graph_keeps_the_order_of_the_ids() -> None:
    ids = ["zebra", "ant", "mole"]
    graph = build_graph(Topology(kind="line"), ids)
    assert graph.ids == ("zebra", "ant", "mole")
    assert graph.edges == (("zebra", "ant"), ("ant", "mole"))
    assert graph.neighbours("ant") == ("zebra", "mole")


# -- the kinds ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [*PLAIN_KINDS, "geometric, neighbours: 6", "random_regular, degree: 1"]
)
def test_two_nodes_share_one_edge(kind: str) -> None:
    assert edges(f"{{kind: {kind}}}", 2) == [(0, 1)]


def test_the_plain_kinds_have_the_edges_their_names_promise() -> None:
    assert edges("{kind: ring}", 4) == [(0, 1), (0, 3), (1, 2), (2, 3)]
    assert edges("{kind: line}", 4) == [(0, 1), (1, 2), (2, 3)]
    assert edges("{kind: star}", 4) == [(0, 1), (0, 2), (0, 3)]
    assert edges("{kind: complete}", 4) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


def test_a_grid_has_nearly_square_rows_and_a_short_last_one() -> None:
    # 0 1 2
    # 3 4 5
    # 6 7
    rows = [(0, 1), (1, 2), (3, 4), (4, 5), (6, 7)]
    columns = [(0, 3), (1, 4), (2, 5), (3, 6), (4, 7)]
    assert edges("{kind: grid}", 8) == sorted(rows + columns)


def test_diameters_are_those_of_the_textbook() -> None:
    def diameter(kind: str) -> int:
        return build_graph(Topology(kind=kind), names(9)).diameter

    assert [diameter(kind) for kind in PLAIN_KINDS] == [4, 8, 2, 4, 1]


@pytest.mark.parametrize(("count", "degree"), [(10, 3), (12, 4), (9, 8), (64, 63), (30, 25)])
def test_every_node_of_a_random_regular_graph_has_the_degree(count: int, degree: int) -> None:
    graph = build_graph(Topology(kind="random_regular", degree=degree, seed=1), names(count))
    assert {graph.degree(node) for node in graph.ids} == {degree}


def test_the_seed_changes_the_graph() -> None:
    texts = [
        f"{{kind: {kind}, seed: {seed}}}"
        for kind in (
            "geometric, neighbours: 5",
            "erdos_renyi, probability: 0.4",
            "random_regular, degree: 4",
        )
        for seed in (1, 2)
    ]
    assert len({tuple(edges(text, 30)) for text in texts}) == len(texts)


def test_geometric_links_at_least_the_neighbours_asked_for() -> None:
    graph = build_graph(read("{kind: geometric, neighbours: 6, seed: 1}"), names(50))
    assert min(map(graph.degree, graph.ids)) == 6
    assert 150 <= len(graph.edges) < 220


def test_geometric_with_few_nodes_links_them_all() -> None:
    text = "{kind: geometric, neighbours: 6, seed: 1}"
    for count in range(2, 8):
        assert edges(text, count) == edges("{kind: complete}", count)


def test_geometric_graphs_stay_the_same_on_every_machine() -> None:
    assert edges("{kind: geometric, neighbours: 2, seed: 2}", 6) == [
        (0, 1),
        (0, 4),
        (1, 5),
        (2, 3),
        (2, 4),
        (3, 4),
        (3, 5),
    ]


def test_erdos_renyi_has_about_the_probable_number_of_edges() -> None:
    count = len(edges("{kind: erdos_renyi, probability: 0.3, seed: 5}", 60))
    assert abs(count - 0.3 * 60 * 59 / 2) < 5 * (0.3 * 0.7 * 60 * 59 / 2) ** 0.5


def test_edges_need_no_kind() -> None:
    explicit = "edges: [[mote3, mote1], [mote2, mote1]]"
    assert edges(f"{{{explicit}}}", 3) == [(0, 1), (0, 2)]
    assert edges(f"{{kind: edges, {explicit}}}", 3) == [(0, 1), (0, 2)]


# -- what is refused ----------------------------------------------------------------------------


def test_an_unknown_kind_is_refused_with_a_suggestion() -> None:
    error = refusal("{kind: rign}", 3)
    assert error.path == ("kind",)
    assert "did you mean 'ring'?" in error.message
    assert all(kind in error.message for kind in KEYS_OF_KIND)


def test_a_missing_kind_is_refused() -> None:
    error = refusal("{seed: 3}", 3)
    assert str(error).startswith("topology.kind is missing, must be one of ring, line")


@pytest.mark.parametrize("kind", PLAIN_KINDS)
@pytest.mark.parametrize(
    "key", ["degree: 3", "probability: 0.5", "neighbours: 3", "seed: 1", "edges: []"]
)
def test_a_key_of_another_kind_is_refused(kind: str, key: str) -> None:
    error = refusal(f"{{kind: {kind}, {key}}}", 6)
    assert error.path == (key.split(":", maxsplit=1)[0],)
    assert error.message == f"does not belong to kind {kind}"


def test_edges_beside_a_random_kind_are_refused() -> None:
    error = refusal("{kind: geometric, neighbours: 2, edges: [[mote1, mote2]]}", 3)
    assert error.path == ("edges",)


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("random_regular", "degree"),
        ("erdos_renyi", "probability"),
        ("geometric", "neighbours"),
        ("edges", "edges"),
    ],
)
def test_a_missing_key_is_refused_with_an_example(kind: str, key: str) -> None:
    error = refusal(f"{{kind: {kind}}}", 6)
    assert error.path == (key,)
    assert f"is needed for kind {kind}, for example {key}: " in error.message


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_nodes_are_refused(count: int) -> None:
    assert "needs at least 2 nodes" in refusal("{kind: ring}", count).message


@pytest.mark.parametrize(
    ("count", "degree", "wording"),
    [
        (5, 5, "must be below the number of nodes, 5"),
        (5, 3, "5 x 3 is odd"),
        (4, 1, "must be at least 2 to connect 4 nodes"),
    ],
)
def test_impossible_degrees_are_refused(count: int, degree: int, wording: str) -> None:
    error = refusal(f"{{kind: random_regular, degree: {degree}}}", count)
    assert error.path == ("degree",)
    assert wording in error.message


@pytest.mark.parametrize("kind", ["star", "complete", "geometric, neighbours: 64"])
def test_more_neighbours_than_the_metropolis_integer_holds_are_refused(kind: str) -> None:
    assert len(edges(f"{{kind: {kind}}}", MAX_DEGREE + 1)) >= MAX_DEGREE
    error = refusal(f"{{kind: {kind}}}", MAX_DEGREE + 2)
    assert "'mote1' 64 neighbours, at most 63 are allowed" in error.message


def test_an_edge_to_itself_is_refused() -> None:
    error = refusal("{edges: [[mote1, mote2], [mote2, mote2]]}", 2)
    assert str(error) == "topology.edges[1] links 'mote2' to itself"


def test_a_repeated_edge_is_refused_in_either_direction() -> None:
    error = refusal("{edges: [[mote1, mote2], [mote2, mote3], [mote2, mote1]]}", 3)
    assert str(error) == "topology.edges[2] links 'mote2' and 'mote1', as edges[0] does already"


def test_an_unknown_node_is_refused_with_a_suggestion() -> None:
    error = refusal("{edges: [[mote1, mote2], [mote2, moet3]]}", 3)
    assert error.path == ("edges", 1, 1)
    assert error.message == "is 'moet3', which is no node, did you mean 'mote3'?"


def test_a_graph_in_pieces_is_refused_by_naming_two_nodes() -> None:
    error = refusal("{edges: [[mote1, mote2], [mote3, mote4]]}", 4)
    assert error.path == ("edges",)
    assert "'mote1' and 'mote3' without a path" in error.message
    assert "add an edge" in error.message


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("{kind: geometric, neighbours: 1}", "another seed or more neighbours"),
        ("{kind: erdos_renyi, probability: 0.01}", "another seed or a greater probability"),
        ("{kind: random_regular, degree: 2, seed: 3}", "another seed or a greater degree"),
    ],
)
def test_a_random_graph_in_pieces_is_refused_with_advice(text: str, advice: str) -> None:
    assert advice in refusal(text, 40).message


@pytest.mark.parametrize(
    "text",
    [
        "{kind: geometric, neighbours: 0}",
        "{kind: random_regular, degree: -2}",
        "{kind: erdos_renyi, probability: 0}",
        "{kind: erdos_renyi, probability: 1.01}",
        "{kind: geometric, neighbours: 3, seed: -1}",
        "{edges: [[mote1, mote2, mote3]]}",
        "{edges: [[1, 2]]}",
        "{kind: ring, nieghbours: 2}",
    ],
)
def test_values_out_of_range_are_refused_when_the_section_is_read(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^fleet\.yaml:1:\d+: topology"):
        read(text)


def test_a_refusal_can_be_placed_in_the_file() -> None:
    document = parse_document(
        "topology:\n  edges:\n    - [a, b]\n    - [b, x]\n", Path("fleet.yaml")
    )
    with pytest.raises(TopologyError) as caught:
        build_graph(document.convert(Fleet).topology, ["a", "b", "c"])
    placed = document.error(("topology", *caught.value.path), caught.value.message)
    assert str(placed) == f"fleet.yaml:4:11: {caught.value}"
