"""node.yaml: allowed settings, and the error for each mistake."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from cipherfleet_node.errors import ConfigError
from cipherfleet_node.runtime.start_warnings import simulation_warnings
from cipherfleet_node.settings.node_yaml import checksum_of, load_node_config
from cipherfleet_node.settings.rules import is_loopback, is_same_host
from cipherfleet_node.settings.sections import (
    Algorithm,
    Attenuation,
    Broker,
    CommandSensor,
    CsvSensor,
    NodeConfig,
    Partner,
    Simulation,
    SyntheticSensor,
    exact_scale_of,
    has_shield,
    resolution_of,
)

GOOD = """\
config_version: 1
fleet: lab
node: n-1
algorithm: {rounds: 5}
objective: {kind: average, values: [{field: t}]}
sensor: {kind: synthetic, fields: {t: {mean: 1.0}}}
neighbours:
  - {id: n-2, neighbours: [n-1, n-4], fingerprint: abc}
  - {id: n-3, neighbours: [n-1], fingerprint: def}
crypto: {exchange: pairwise}
"""


def load(folder: Path, old: str = "", new: str = "") -> NodeConfig:
    assert old in GOOD
    (folder / "node.yaml").write_text(GOOD.replace(old, new, 1))
    return load_node_config(folder)


def complaint(folder: Path, old: str, new: str) -> str:
    with pytest.raises(ConfigError) as refused:
        load(folder, old, new)
    text = str(refused.value)
    assert text.startswith(f"{folder}/node.yaml:")
    assert refused.value.exit_code == 3
    return text.removeprefix(f"{folder}/node.yaml:")


def test_a_small_configuration_is_completed_by_defaults(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config.broker == Broker(host="127.0.0.1", port=1883)
    assert config.crypto.key_bits == 2048
    assert not config.crypto.allow_weak_keys
    assert config.simulation.seed is None
    assert [n.id for n in config.neighbours] == ["n-2", "n-3"]
    assert resolution_of(config.algorithm) == 2.0**-32


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"node.yaml: cannot be read: No such file"):
        load_node_config(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("fleet: lab\n", "", "1:1: fleet is missing and has no default"),
        ("fleet: lab", "fleet: a/b", "2:8: fleet is 'a/b', must be 1 to 63 letters, digits, - and"),
        ("fleet: lab", "fleet: lab#+", "2:8: fleet is 'lab#+', must be 1 to 63 letters"),
        ("fleet: lab", 'fleet: "lab\\n"', r"2:8: fleet is 'lab\n', must be 1 to 63 letters"),
        ("node: n-1", "node: -n", "3:7: node is '-n', must be 1 to 63 letters"),
        ("node: n-1", "node: " + "n" * 64, "must be 1 to 63 letters"),
        ("node: n-1", "node: 17", "3:7: node is 17, must be a text"),
        ("node: n-1", "nod: n-1", "3:1: nod is not a known key, did you mean 'node'?"),
        (
            "rounds: 5",
            "round: 5",
            "4:13: algorithm.round is not a known key, did you mean 'rounds'?",
        ),
        ("rounds: 5", "rounds: 0", "4:21: algorithm.rounds is 0, must be a whole number >= 1"),
        ("rounds: 5", "answer_timeout_s: 1", "4:1: algorithm needs rounds (how many), or period_s"),
        ("rounds: 5", "rounds: 5, answer_timeout_s: 0", "is 0, must be a number > 0"),
        ("rounds: 5", "rounds: 5, answer_timeout_s: 1e999", "value that is not allowed"),
        ("rounds: 5", "rounds: 5, resolution: 2^24000", "is '2^24000', must be a positive number"),
        ("rounds: 5", "rounds: 5, resolution: 2^999", "is '2^999', must be a positive number"),
        ("rounds: 5", "rounds: 5, resolution: -1", "is -1, must be a positive number, for example"),
        ("rounds: 5", "rounds: 5, resolution: 0", "is 0, must be a positive number, for example"),
        ("rounds: 5", "rounds: 5, resolution: fine", "is 'fine', must be a positive number"),
        ("rounds: 5", "rounds: 5, stepsize: {law: exact}", "one of log-normal, normal, uniform"),
        ("rounds: 5", "rounds: 5, attenuation: weak", "is 'weak', must be none or a mapping"),
        (
            "kind: synthetic",
            "kind: cvs",
            "6:16: sensor.kind is 'cvs', must be one of csv, synthetic",
        ),
        ("mean: 1.0", "mean: one", "6:46: sensor.fields.t.mean is 'one', must be a number"),
        (
            "mean: 1.0",
            "maen: 1.0",
            "6:40: sensor.fields.t.maen is not a known key, did you mean 'me",
        ),
        ("1.0}}}", "1.0}}, limits: {t: [3, 3]}}", "sensor.limits.t is [3.0, 3.0], must be [lowest"),
        (
            "kind: average",
            "kind: averge",
            "5:19: objective.kind is 'averge', must be one of average",
        ),
        ("kind: average", "kind: ridge", "objective.target is needed for kind ridge"),
        (
            "sensor:",
            "answer: {mqtt: {host: 127.0.0.2}}\nsensor:",
            "6:10: answer.mqtt is 127.0.0.2:1883, which is the broker of the fleet",
        ),
        (
            "objective: {kind: average, values: [{field: t}]}",
            "objective: {kind: 'their:Own'}\nprivacy: {epsilon: 1, readings: 1, nodes: 2}",
            "5:19: objective.kind is their:Own: the section privacy needs one of least_squares",
        ),
        (
            "sensor:",
            "privacy: {epsilon: 1, readings: 1, nodes: 2}\nsensor:",
            "5:19: objective.kind is average: the section privacy needs one of least_squares",
        ),
        ("sensor:", "privacy: {epsilon: 1, readings: 1}\nsensor:", "privacy.nodes is missing"),
        ("sensor:", "privacy: {epsilon: 1, nodes: 1}\nsensor:", "privacy.readings is missing"),
        ("sensor:", "answer: {files: true}\nsensor:", "answer.files is not a known key, did you"),
        ("sensor:", "answer: {units: {u: mm}}\nsensor:", "is 'u', must be a field of the objectiv"),
        ("sensor:", "answer: {mqtt: {port: 1884, password_file: p}}\nsensor:", "mqtt.user as well"),
        (", values: [{field: t}]", "", "5:1: objective.values is needed for kind average"),
        (", values: [{field: t}]", ", values: []", "objective.values is needed for kind average"),
        (
            "field: t",
            "field: t, scale: 0",
            "objective.values[0].scale is 0, must be another number",
        ),
        (
            "[{field: t}]",
            "[{field: t}], target: {field: t}",
            "target does not belong to kind average",
        ),
        (
            "[n-1, n-4]",
            "[]",
            "8:15: neighbours[0].neighbours is an empty list, must be a list of length >= 1",
        ),
        ("id: n-3", "id: n-2", "9:10: neighbours[1].id is 'n-2', which is listed already"),
        ("id: n-3", "id: n-1", "9:10: neighbours[1].id is 'n-1', which is listed already"),
        (
            "exchange: pairwise",
            "exchange: pairwise, key_bits: 1024",
            "key_bits is 1024, which is a weak key",
        ),
        (
            "exchange: pairwise",
            "exchange: pairwise, key_bits: 2050",
            "is 2050, must be a multiple of 16",
        ),
        (
            "exchange: pairwise",
            "exchange: pairwise, rerandomise: none",
            "crypto.rerandomise is 'none', must",
        ),
        (
            "fleet: lab",
            "fleet: lab\nbroker: {host: 10.0.0.1}",
            "plain TCP is allowed on the loopback",
        ),
        ("fleet: lab", "fleet: lab\nbroker: {port: 0}", "3:16: broker.port is 0, must be a whole"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    assert expected in complaint(tmp_path, old, new)


FEATURES = "kind: average, values: [{field: t}]"


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ("[{}]", "features[0] must have exactly one of constant, field and daily"),
        ("[{constant: 1, field: t}]", "features[0] must have exactly one of constant"),
        ("[{constant: 1}, {field: t, harmonics: 2}]", "features[1].harmonics belongs to daily"),
        ("[{field: t, scale: 0}]", "features[0].scale is 0, must be another number"),
        ("[]", "objective.features is needed for kind ridge"),
    ],
)
def test_a_wrong_feature_is_told_by_its_place(tmp_path: Path, features: str, words: str) -> None:
    new = f"kind: ridge, target: {{field: t}}, features: {features}"
    assert words in complaint(tmp_path, FEATURES, new)


def test_no_neighbours_are_no_fleet(tmp_path: Path) -> None:
    start = GOOD.index("neighbours:")
    text = complaint(tmp_path, GOOD[start:], "neighbours: []\ncrypto: {exchange: pairwise}\n")
    assert text.startswith("7:1: neighbours is empty: list the neighbours, or set operator")


def test_weak_keys_need_to_be_asked_for(tmp_path: Path) -> None:
    weak = "exchange: pairwise, key_bits: 512, allow_weak_keys: true"
    assert load(tmp_path, "exchange: pairwise", weak).crypto.key_bits == 512


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("[n-1, n-4]", "[n-4]", "8:15: neighbours[0].neighbours lacks 'n-1', this node itself"),
        ("{exchange: pairwise}", "{}", "crypto.exchange is needed: sealed or pairwise"),
        ("pairwise", "sealed", "seals lacks 'n-4', a co-neighbour of this node"),
    ],
)
def test_what_a_sealed_exchange_needs_is_asked_for(
    tmp_path: Path, old: str, new: str, text: str
) -> None:
    assert text in complaint(tmp_path, old, new)


def test_what_is_wrong_with_neighbours_and_seals_is_told_together(tmp_path: Path) -> None:
    seals = 'seals: {n-4: "", n 5: ""}\n'
    text = GOOD.replace("[n-1, n-4]", "[n-4, n-6, n-7]").replace("pairwise", "sealed") + seals
    (tmp_path / "node.yaml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_node_config(tmp_path)
    assert [finding.path for finding in refused.value.findings] == [
        ("neighbours", 0, "neighbours"), ("seals", "n 5"),
    ]  # fmt: skip
    (tmp_path / "node.yaml").write_text(
        text.replace(', n 5: ""', "").replace("[n-4,", "[n-1, n-4,")
    )
    with pytest.raises(ConfigError, match="seals lacks 'n-6' and 1 more, a co-neighbour"):
        load_node_config(tmp_path)


def test_words_that_other_parsers_take_for_values_are_words(tmp_path: Path) -> None:
    assert load(tmp_path, "fleet: lab", "fleet: no").fleet == "no"
    assert load(tmp_path, "fleet: lab", "fleet: 2024-01-01").fleet == "2024-01-01"
    where = "kind: csv, path: x, where: {a: 010, b: no, c: 1e-3, d: 2024-01-01}}\n#"
    sensor = load(tmp_path, "kind: synthetic,", where).sensor
    assert isinstance(sensor, CsvSensor)
    assert sensor.where == {"a": 10, "b": "no", "c": 0.001, "d": "2024-01-01"}


@pytest.mark.parametrize(
    ("given", "value"),
    [("2^-24", 2.0**-24), ("2 ^ -3", 0.125), ("2^4", 16.0), (1e-6, 1e-6), (1, 1.0)],
)
def test_resolutions_are_powers_of_two_or_numbers(given: str | float, value: float) -> None:
    assert resolution_of(Algorithm(rounds=1, resolution=given)) == value


def test_sensors_are_told_apart_by_their_kind(tmp_path: Path) -> None:
    assert isinstance(load(tmp_path).sensor, SyntheticSensor)
    command = "kind: command, command: [a, b]}\n#"
    assert isinstance(load(tmp_path, "kind: synthetic,", command).sensor, CommandSensor)
    empty = complaint(tmp_path, "kind: synthetic,", "kind: command, command: []}\n#")
    assert "sensor.command is empty, must be [program, argument, ...]" in empty


def test_attenuation_is_a_mapping_or_none(tmp_path: Path) -> None:
    none = load(tmp_path, "rounds: 5", "rounds: 5, method: article, attenuation: none")
    assert none.algorithm.attenuation == "none"
    some = load(tmp_path, "rounds: 5", "rounds: 5, method: article, attenuation: {scale: 0.2}")
    assert some.algorithm.attenuation == Attenuation(scale=0.2, exponent=0.81)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("localhost", True),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_only_loopback_addresses_stay_on_this_machine(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_each_simulation_setting_that_is_on_is_named_with_what_it_does() -> None:
    assert list(simulation_warnings(Simulation())) == []
    (traced,) = simulation_warnings(Simulation(trace_estimates=True))
    assert "simulation.trace_estimates is on" in traced
    assert "logs/estimates.jsonl, for the plot" in traced
    seeded, _ = simulation_warnings(Simulation(seed=1, trace_estimates=True))
    assert "simulation.seed makes every random number repeatable" in seeded


@pytest.mark.parametrize(
    ("setting", "place"),
    [
        ("attenuation: none", "attenuation"),
        ("stepsize: {initial: 0.2}", "stepsize.initial"),
        ("stepsize: {decay: 0}", "stepsize.decay"),
        ("stepsize: {exponent: 1}", "stepsize.exponent"),
    ],
)
def test_the_exact_method_refuses_what_it_does_not_use(
    setting: str, place: str, tmp_path: Path
) -> None:
    text = complaint(tmp_path, "rounds: 5", f"rounds: 5, method: exact, {setting}")
    assert f"algorithm.{place} is not used by method exact" in text
    assert "leave it out, or set algorithm.method: article" in text


@pytest.mark.parametrize("kind", ["average", "logistic", "huber", "cipherfleet_node.core:Own"])
def test_statistics_are_refused_where_they_do_not_give_the_optimum(
    kind: str, tmp_path: Path
) -> None:
    objective = "target: {field: y}, features: [{constant: 1}]"
    if kind == "average":
        objective = "values: [{field: y}]"
    good = GOOD.replace("rounds: 5", "rounds: 5, method: statistics")
    (tmp_path / "node.yaml").write_text(
        re.sub(r"objective: .*", f"objective: {{kind: '{kind}', {objective}}}", good)
    )
    with pytest.raises(ConfigError) as caught:
        load_node_config(tmp_path)
    assert f"objective.kind is {kind}: algorithm.method: statistics needs one of" in str(
        caught.value
    )
    assert "set algorithm.method: exact" in caught.value.remedy or kind == "average"


def test_statistics_are_of_the_whole_window(tmp_path: Path) -> None:
    good = GOOD.replace("rounds: 5", "rounds: 5, method: statistics").replace("average", "mean")
    (tmp_path / "node.yaml").write_text(good.replace("kind: mean", "kind: mean, minibatch: 3"))
    with pytest.raises(ConfigError, match=r"objective.minibatch is not used by method statistics"):
        load_node_config(tmp_path)


def test_the_articles_method_refuses_a_metric_and_a_spread_above_one(tmp_path: Path) -> None:
    text = complaint(tmp_path, "rounds: 5", "rounds: 5, method: article, metric: newton")
    assert "algorithm.metric is not used by method article" in text
    assert "set algorithm.method: exact" in text
    wide = "rounds: 5, method: article, stepsize: {spread: 1.5}"
    text = complaint(tmp_path, "rounds: 5", wide)
    assert "algorithm.stepsize.spread is 1.5, must be at most 1 in method article" in text
    assert "write spread: 1, or set algorithm.method: exact" in text
    text = complaint(tmp_path, "rounds: 5", "rounds: 5, method: exact, stepsize: {spread: 2.1}")
    assert "algorithm.stepsize.spread is 2.1" in text


SHIELDED = "rounds: 5, shield: linear"
GENERATIONS = """\
generations:
  index: 0
  every: 208
  roll_call: 10
  averaging: 32
  mean_partners: 2.0
  members: "{digest}"
  partners: {{n-2: {{index: 1, seal: abc}}, n-5: {{index: 2, seal: def}}}}
crypto: {{exchange: pairwise}}
""".format(digest="5a" * 32)


def load_shielded(folder: Path, old: str = "", new: str = "") -> NodeConfig:
    text = GOOD.replace("rounds: 5", SHIELDED).replace("kind: average", "kind: mean")
    text = text.replace("crypto: {exchange: pairwise}\n", GENERATIONS)
    assert old in text
    (folder / "node.yaml").write_text(text.replace(old, new, 1))
    return load_node_config(folder)


def test_a_node_with_a_shield_knows_its_partners(tmp_path: Path) -> None:
    config = load_shielded(tmp_path)
    assert has_shield(config.algorithm, config.objective)
    assert config.generations is not None
    assert config.generations.partners == {
        "n-2": Partner(index=1, seal="abc"),
        "n-5": Partner(index=2, seal="def"),
    }


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("every: 208", "every: 69", "must be at least averaging + 3 roll_call + 8, which is 70"),
        ("index: 2", "index: 1", "gives 'n-5' the index 1, which another node has"),
        ("index: 2", "index: 0", "gives 'n-5' the index 0, which another node has"),
        ("n-5: {", "n-1: {", "has 'n-1', this node itself, among its partners"),
        ("index: 2", "index: 1024", "generations.partners.n-5.index is 1024"),
        ("mean_partners: 2.0", "mean_partners: -1", "generations.mean_partners is -1"),
        (f'"{"5a" * 32}"', '"5a"', "generations.members is '5a'"),
        (", shield: linear", "", "generations is not used by algorithm.shield: none"),
        (GENERATIONS, "crypto: {exchange: pairwise}", "algorithm.shield needs the section"),
    ],
)
def test_inconsistent_generations_are_refused(
    old: str, new: str, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as refused:
        load_shielded(tmp_path, old, new)
    assert problem in str(refused.value)


def test_a_node_that_is_not_enrolled_needs_no_partners_yet(tmp_path: Path) -> None:
    neighbours = GOOD[GOOD.index("neighbours:") : GOOD.index("crypto:")]
    text = GOOD.replace(neighbours, "operator: abc\n").replace("rounds: 5", SHIELDED)
    (tmp_path / "node.yaml").write_text(text.replace("average", "mean"))
    assert load_node_config(tmp_path).generations is None


@pytest.mark.parametrize(
    ("algorithm", "problem"),
    [
        ("rounds: 5, method: article, shield: linear", "is not used by method article"),
        ("rounds: 5, shield: linear", "is not used by objective average"),
    ],
)
def test_the_article_and_an_average_refuse_a_shield(
    algorithm: str, problem: str, tmp_path: Path
) -> None:
    assert f"algorithm.shield {problem}" in complaint(tmp_path, "rounds: 5", algorithm)


def test_the_checksum_covers_the_partners_and_is_the_former_one_without(tmp_path: Path) -> None:
    config = load_shielded(tmp_path)
    assert config.generations is not None
    partners = {**config.generations.partners, "n-2": Partner(index=1, seal="abd")}
    other = msgspec.structs.replace(config.generations, partners=partners)
    replace = msgspec.structs.replace
    found = {checksum_of(replace(config, generations=g)) for g in (config.generations, other, None)}
    assert len(found) == 3
    assert checksum_of(load(tmp_path)) == checksum_of(replace(config, generations=None))


def test_an_average_refuses_a_metric(tmp_path: Path) -> None:
    text = complaint(tmp_path, "rounds: 5", "rounds: 5, method: exact, metric: diagonal")
    assert "algorithm.metric is not used by objective average" in text
    assert "set objective.kind: mean" in text


@pytest.mark.parametrize(
    ("settings", "kind", "scale"),
    [
        ("method: exact", "mean", "agree"),
        ("method: exact, scale: 2, stepsize: {spread: 0.5, law: normal}", "mean", 2.0),
        ("method: exact, metric: newton, stepsize: {spread: 2}", "mean", "agree"),
        ("method: exact, scale: 2, metric: diagonal", "mean", 2.0),
        ("method: exact", "average", None),
        ("rounds: 3", "mean", "agree"),
        ("method: article", "mean", None),
        ("method: statistics", "mean", 1.0),
        ("method: statistics, scale: 2", "mean", 2.0),
    ],
)
def test_the_exact_method_has_a_scale_and_an_average_needs_none(
    settings: str, kind: str, scale: float | str | None, tmp_path: Path
) -> None:
    good = GOOD.replace(
        "rounds: 5", settings if "rounds" in settings else f"rounds: 5, {settings}"
    ).replace("average", kind)
    (tmp_path / "node.yaml").write_text(good)
    config = load_node_config(tmp_path)
    assert exact_scale_of(config.algorithm, config.objective) == scale


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("hub.example", "HUB.example.", True),
        ("localhost", "127.0.0.1", True),
        ("::1", "localhost", True),
        ("hub.example", "127.0.0.1", False),
        ("192.168.1.5", "192.168.1.6", False),
    ],
)
def test_one_host_is_known_by_several_names(first: str, second: str, is_same: bool) -> None:
    assert is_same_host(first, second) is is_same
