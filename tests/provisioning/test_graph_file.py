"""Graphs from GraphML and edge lists: what is read, what is refused, and where."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import networkx as nx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cipherfleet_node.errors import ConfigError
from cipherfleet_provisioning.fleet.file import Overrides
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet
from cipherfleet_provisioning.topology import graph_file
from cipherfleet_provisioning.topology.graph_file import GraphFile, read_graph_file

FLEET = """\
config_version: 1
fleet: lab
algorithm: {{rounds: 4}}
objective: {{kind: average, values: [{{field: t}}]}}
topology: {{kind: file, file: {name}}}
nodes:
  - {{each: {nodes}, id: "n{{n}}", sensor: {{kind: synthetic, fields: {{t: {{mean: 1}}}}}}}}
"""
LINE = "n1 n2\nn2 n3\n"


def graphml(body: str, head: str = "") -> str:
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n{head}'
        '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n'
        f'<graph edgedefault="undirected">\n{body}</graph></graphml>\n'
    )


def read(folder: Path, text: str | bytes, name: str = "net.txt") -> GraphFile:
    file = folder / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_graph_file(file)


def ends(found: GraphFile) -> list[tuple[str, str]]:
    return [edge.ends for edge in found.edges]


def fleet_with(folder: Path, text: str, name: str = "net.txt", nodes: int = 3) -> Fleet:
    (folder / name).write_text(text)
    file = folder / "fleet.yaml"
    file.write_text(FLEET.format(name=name, nodes=nodes))
    return load_fleet(file)


# -- what is read ---------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("abcdefgh")), min_size=1, max_size=20
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_networkx_writes_is_read_as_it_was(
    tmp_path: Path, pairs: list[tuple[str, str]]
) -> None:
    graph = nx.Graph(pairs, name="<&\"'>")
    graph.add_node("alone", label="ü")
    nx.set_edge_attributes(graph, 0.5, "weight")
    nx.write_graphml(graph, tmp_path / "net.graphml")
    nx.write_edgelist(graph, tmp_path / "net.txt", data=False)
    expected = {frozenset(pair) for pair in graph.edges}
    for name in ("net.graphml", "net.txt"):
        found = read_graph_file(tmp_path / name)
        assert {frozenset(pair) for pair in ends(found)} == expected
        assert len(found.edges) == len(expected)
    assert set(read_graph_file(tmp_path / "net.graphml").nodes) == set(graph.nodes)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_graphml_says_its_own_encoding(encoding: str, tmp_path: Path) -> None:
    text = graphml('<edge source="ü" target="b"/>').replace("utf-8", encoding.removesuffix("-sig"))
    assert ends(read(tmp_path, text.encode(encoding), "net.xml")) == [("ü", "b")]


def test_a_list_may_have_commas_tabs_comments_and_blank_lines(tmp_path: Path) -> None:
    text = "\ufeff# the lab\n\na b\r\nb,c\nc\td   # by the window\n  d , e  \n"
    found = read(tmp_path, text, "net.edges")
    assert ends(found) == [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e")]
    assert found.edges[3].places == ((6, 3), (6, 7))
    assert str(found.mark((6, 7))) == f"{tmp_path}/net.edges:6:7"


def test_a_fleet_takes_its_file_from_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    listed = fleet_with(tmp_path, "n3 n2\nn1 n2\n").graph
    assert listed.edges == (("n1", "n2"), ("n2", "n3"))
    body = '<node id="n1"/><edge source="n3" target="n2"/><edge source="n2" target="n1"/>'
    assert fleet_with(tmp_path, graphml(body), "net.graphml").graph == listed


# -- what is refused, and where -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LINE + "n3 n4\n", r"net.txt:3:4: an end of an edge is 'n4', which is no node"),
        (LINE + "moat n1\n", r"net.txt:3:1: an end of an edge is 'moat', which is no node"),
        (LINE + "  n3  n3\n", r"net.txt:3:3: an edge links 'n3' to itself"),
        (LINE + "n3 n2\n", r"net.txt:3:1: an edge links 'n3' and 'n2', as the one in line 2 does"),
        ("n1 n2\n", r"is 'net.txt', which has no edge of 'n3': every node needs a neighbour"),
        ("n1 n2 0.5\n", r"net.txt:1:1: has 3 words, must be two node ids; .*data=False"),
        ("n1\n", r"net.txt:1:1: has 1 word, must be two node ids"),
        ("# nothing\n", r"net.txt:1:1: has no edges"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_list_is_named_with_its_place_in_both_files(
    text: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        fleet_with(tmp_path, text)
    line = str(caught.value)
    assert line.startswith(f"{tmp_path}/fleet.yaml:5:30: topology.file ")
    assert re.search(words, line), line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('<edge source="n1" target="n4"/>', "4:1: an end of an edge is 'n4', which is no node"),
        ('\n <edge source="n1" target="n1"/>', "5:2: an edge links 'n1' to itself"),
        ('<node id="n1"/><node id="moat"/>', "4:16: 'moat' is no node of the fleet"),
        ('<edge source="n1"/>', "4:1: is <edge> without target"),
        ("<node/>", "4:1: is <node> without id"),
        ('<edge source="n1" target="n2" directed="true"/>', "4:1: is directed"),
        ("<hyperedge/>", "4:1: is a <hyperedge>, must be a plain graph"),
        ('<node id="n1"><graph/></node>', "4:15: is a second graph, must be a plain graph"),
        ("<key>", "not valid XML: mismatched tag"),
        ('<edge source="&lol;" target="n2"/>', "not valid XML: undefined entity"),
    ],
)  # fmt: skip
def test_a_mistake_in_graphml_is_named_with_its_place(
    body: str, words: str, tmp_path: Path
) -> None:
    good = '<edge source="n1" target="n2"/><edge source="n2" target="n3"/>\n'
    with pytest.raises(ConfigError) as caught:
        fleet_with(tmp_path, graphml(body + "\n" + good), "net.graphml")
    assert words in str(caught.value)
    assert f"topology.file leads to {tmp_path}/net.graphml:" in str(caught.value)


def test_missing_nodes_are_counted_where_they_are_many(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no edge of 'n3', 'n4', 'n5', 'n6' and 6 others: every"):
        fleet_with(tmp_path, "n1 n2\n", nodes=12)


def test_a_graph_in_parts_names_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"2 parts, .* 3 with 'n3', 2 with 'n1'; add an edge"):
        fleet_with(tmp_path, "n1 n2\nn3 n4\nn4 n5\n", nodes=5)


def test_too_many_neighbours_are_refused(tmp_path: Path) -> None:
    star = "".join(f"n1 n{i}\n" for i in range(2, 66))
    with pytest.raises(ConfigError, match=r"5:30: topology.file gives 'n1' 64 neighbours, at most"):
        fleet_with(tmp_path, star, nodes=65)


def test_fewer_nodes_than_the_file_names_are_refused(tmp_path: Path) -> None:
    fleet_with(tmp_path, LINE)
    with pytest.raises(ConfigError, match=r"--nodes is 2, but topology.file names its 3 nodes"):
        load_fleet(tmp_path / "fleet.yaml", Overrides(nodes=2))


def test_a_directed_graph_is_refused(tmp_path: Path) -> None:
    nx.write_graphml(nx.DiGraph([("n1", "n2"), ("n2", "n1")]), tmp_path / "net.graphml")
    with pytest.raises(ConfigError, match=r"net.graphml:\d+:\d+: is directed, must be undirected"):
        read_graph_file(tmp_path / "net.graphml")


@pytest.mark.parametrize("name", ["net.gml", "net", "net.json", "net.graphml.gz"])
def test_other_endings_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.graphml \(GraphML\) or \.txt"):
        read(tmp_path, LINE, name)


# -- hostile files --------------------------------------------------------------------------------

LAUGHS = (
    "<!DOCTYPE lolz [<!ENTITY l0 'ha'>"
    + "".join(f"<!ENTITY l{i} '{f'&l{i - 1};' * 10}'>" for i in range(1, 10))
    + "]>\n"
)
EDGE = '<edge source="{}" target="n2"/>'


@pytest.mark.parametrize(
    ("head", "source"),
    [
        (LAUGHS, "&l9;"),
        ('<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>\n', "&e;"),
        ('<!DOCTYPE graphml SYSTEM "http://127.0.0.1:1/x.dtd">\n', "n1"),
        ("<!DOCTYPE graphml>\n", "n1"),
    ],
    ids=["billion laughs", "external entity", "external document type", "bare document type"],
)
def test_document_types_and_entities_are_refused_at_their_first_sign(
    head: str, source: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"net.graphml:2:\d+: has a document type or entities"):
        read(tmp_path, graphml(EDGE.format(source), head), "net.graphml")


def test_an_entity_would_be_taken_if_document_types_were_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the guard is for: without it, entities do reach the ids."""
    monkeypatch.setattr(graph_file._GraphmlReader, "_refuse_doctype", lambda *_: None)
    head = "<!DOCTYPE x [<!ENTITY e 'haha'>]>\n"
    found = read(tmp_path, graphml(EDGE.format("&e;"), head), "net.graphml")
    assert ends(found) == [("haha", "n2")]


@pytest.mark.parametrize("name", ["net.txt", "net.graphml"])
def test_a_file_too_large_is_refused_before_it_is_parsed(name: str, tmp_path: Path) -> None:
    with (tmp_path / name).open("wb") as stream:
        stream.truncate(graph_file.MAX_FILE_BYTES + 1)  # zeros, which are neither XML nor ids
    with pytest.raises(ConfigError, match=r"has more than 33554432 bytes, the most allowed"):
        read_graph_file(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("net.txt", lambda n: "n1 n2\n" * n),
        ("net.graphml", lambda n: graphml((EDGE.format("n1") + "\n") * n)),
    ],
)
def test_too_many_edges_are_refused_at_the_first_one_too_many(
    name: str, text: Callable[[int], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_file, "MAX_EDGES", 7)
    assert len(read(tmp_path, text(7), name).edges) == 7
    with pytest.raises(ConfigError, match=r":(8|11):1: has more than 7 edges, the most allowed"):
        read(tmp_path, text(9), name)


@pytest.mark.parametrize("name", ["net.txt", "net.graphml"])
def test_what_is_no_file_is_refused_without_waiting(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ConfigError, match="is not a regular file"):
        read_graph_file(tmp_path / name)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_graph_file(tmp_path / "absent" / name)


@pytest.mark.parametrize("encoding", ["no-such", "hex", "utf-7", "punycode", "idna", "ascii"])
def test_an_odd_encoding_is_refused(encoding: str, tmp_path: Path) -> None:
    text = graphml(EDGE.format("ü")).replace("utf-8", encoding)
    with pytest.raises(ConfigError, match=r"net.graphml:\d+:\d+: (has an encoding|is not valid)"):
        read(tmp_path, text, "net.graphml")


def test_a_list_that_is_not_text_is_refused_at_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"net.txt:2:1: is not UTF-8 text"):
        read(tmp_path, b"a b\n\xff\xfe\n")


def test_depth_of_nesting_does_not_matter(tmp_path: Path) -> None:
    body = "<data>" * 100_000 + "</data>" * 100_000 + EDGE.format("n1")
    assert len(read(tmp_path, graphml(body), "net.graphml").edges) == 1


PIECES = st.lists(
    st.sampled_from(
        ["<graphml>", "</graphml>", "<graph>", "</graph>", "<edge ", "source='a' ", "target='b'",
         "/>", "<node id='a'/>", "<!DOCTYPE x>", "&lt;", "<?xml version='1.0' encoding='", "utf-8",
         "'?>", "a b\n", "#", ",", "\0", "\ufeff", "x" * 300]
    )
    | st.text(max_size=5)
)  # fmt: skip


@given(PIECES, st.sampled_from(["net.txt", "net.graphml"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_any_text_is_taken_or_refused_in_one_short_line(
    tmp_path: Path, pieces: list[str], name: str
) -> None:
    try:
        found = read(tmp_path, "".join(pieces).encode("utf-8", "surrogatepass"), name)
    except ConfigError as error:
        text = str(error)
        assert text.startswith(f"{tmp_path}/{name}:")
        assert "\n" not in text
        assert len(text) < len(str(tmp_path)) + 300
    else:
        assert found.edges
