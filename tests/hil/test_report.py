"""The report page in a browser: what it shows, and that it fetches nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from html import unescape
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from cipherfleet_hil.measurement.document import (
    Measurement,
    benchmark,
    figure,
    write_measurement,
)
from cipherfleet_hil.report.charts import (
    Series,
    Stack,
    compare_predictions,
    histogram,
    line_chart,
    stacked_bars,
    time_text,
)
from cipherfleet_hil.report.html import markdown, page, write_report
from cipherfleet_node.errors import ConfigError
from tests.support.command_line import run_here
from tests.support.measured import document, machine, rounds, samples
from tests.support.results import check_result

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PROBE = """<script>
const box = e => {
  const r = e.getBoundingClientRect();
  return [r.left, r.top, r.right, r.bottom];
};
const look = getComputedStyle(document.body);
const seen = [...document.querySelectorAll("figure")].map(f => ({
  caption: f.querySelector("figcaption").textContent,
  box: box(f.querySelector("svg")),
  shown: getComputedStyle(f).visibility,
  texts: [...f.querySelectorAll("svg text")].map(t => [t.textContent, ...box(t)]),
  shapes: [...f.querySelectorAll("svg g:has(> title) path")].map(box),
  colours: [...f.querySelectorAll("svg g:has(> title) path, svg text")].map(e => {
    const look = getComputedStyle(e);
    return look.fill === "none" ? look.stroke : look.fill;
  }),
}));
const bad = document.querySelector(".validity.bad strong");
const probe = {seen, width: innerWidth, wide: document.documentElement.scrollWidth,
  bad: bad && [bad.textContent, parseFloat(getComputedStyle(bad).fontSize)],
  ink: look.color, page: look.backgroundColor};
document.body.dataset.probe = JSON.stringify(probe);
</script>"""


def chromium(*arguments: str, folder: Path) -> str:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    words = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND",
        "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--no-default-browser-check", f"--user-data-dir={folder / 'profile'}",
        "--window-size=1100,900", *arguments,
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


LONG = "a benchmark whose name is long enough to leave no room for the chart, <&> so on and so on"


@cache
def many() -> list[tuple[str, Measurement]]:
    """What the page has to show: sizes, phases, predictions, and one that is not valid."""
    rng = Random(4)
    small = document(
        [
            benchmark(
                f"{case}, 1024 bits, d={d}, n={n}",
                {"case": case, "key_bits": 1024, "dimension": d, "degree": n},
                samples(rng, middle * d, count=30),
            )
            for case, middle in (("online", 2e-3), ("decrypt", 1.9e-3), ("phe", 2e-2), ("a", 1e-6))
            for d in (1, 8)
            for n in (1, 4)
        ],
        title="the encrypted exchange at 1024 bits",
    )
    large = document(
        [
            benchmark(
                "online, 2048 bits, d=8, n=4",
                {"case": "online", "key_bits": 2048, "dimension": 8, "degree": 4},
                samples(rng, 9e-3),
            )
        ],
        machine(throttled=0x50005),
        title="the encrypted exchange <at> 2048 bits",
    )
    chatty = document(
        [
            benchmark(LONG + str(d), {"dimension": d, "case": LONG}, samples(rng, d * 1e-3))
            for d in (1, 2)
        ],
        machine("host"),
        title=LONG,
        predicted={f"{LONG}1": 2e-3},
    )
    made = (small, large, rounds(12), chatty)
    names = ("small.json", "large.json", "rounds.json", "chatty.json")
    return list(zip(names, made, strict=True))


@cache
def whole() -> str:
    """The page of all these."""
    return page(many())


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a browser makes of the page."""
    return probed(whole(), tmp_path_factory.mktemp("browser"))


def probed(text: str, folder: Path, *arguments: str) -> dict[str, Any]:
    """Sizes, texts and colours, by a script in a copy whose policy lets it run."""
    open_page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    assert open_page != text
    file = folder / "probe.html"
    file.write_text(open_page.replace("</body>", f"{PROBE}</body>"))
    dom = chromium("--dump-dom", *arguments, file.as_uri(), folder=folder)
    found = re.search(r'<body data-probe="([^"]*)"', dom)
    assert found is not None
    probe: dict[str, Any] = json.loads(unescape(found[1]))
    return probe


# -- what is seen --------------------------------------------------------------------------------


def test_every_figure_is_seen_and_has_a_size(probe: dict[str, Any]) -> None:
    captions = [each["caption"] for each in probe["seen"]]
    assert len(captions) == len(re.findall("<figure", whole()))
    for words in (
        "device: median against key size, bits (d=8, n=4)",
        "device: median against d, dimension of the estimate (1024 bits, n=4)",
        "device: median against n, number of neighbours (1024 bits, d=8)",
        "emulated: phases of a round, median of each (medians need not add up)",
        "emulated: predicted and measured times (right: measured / predicted)",
        "device: online, 2048 bits, d=8, n=4",
    ):
        assert words in captions
    for each in probe["seen"]:
        left, top, right, bottom = each["box"]
        assert right - left > 200, each["caption"]
        assert bottom - top > 60, each["caption"]
        assert 0 <= left < right <= probe["width"]
        assert each["shown"] == "visible"
        assert each["shapes"], each["caption"]
        assert all(a <= c and b <= d and a + b < c + d for a, b, c, d in each["shapes"])


def test_no_label_is_cut_off_or_lies_on_another(probe: dict[str, Any]) -> None:
    for each in probe["seen"]:
        left, top, right, bottom = each["box"]
        boxes = each["texts"]
        for place, (text, a, b, c, d) in enumerate(boxes):
            assert left - 1 <= a < c <= right + 1, (each["caption"], text)
            assert top - 1 <= b < d <= bottom + 1, (each["caption"], text)
            for other, e, f, g, h in boxes[:place]:
                apart = c <= e + 0.5 or g <= a + 0.5 or d <= f + 2.5 or h <= b + 2.5
                assert apart, (each["caption"], text, other)


def test_nor_is_one_where_there_is_much_or_little_to_show(tmp_path: Path) -> None:
    names = [f"{LONG if n % 5 == 0 else 'case'} {n}" for n in range(20)]
    sizes = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
    charts = [
        histogram([1e-3], "one"),
        histogram([2e-3 + 1e-9 * n for n in range(100)], "near"),
        histogram([*[2e3 + n for n in range(9999)], 1e5], "long"),
        line_chart(
            [Series(x, [(d, 1e-6 * d) for d in sizes], n) for n, x in enumerate(names)], "d", ""
        ),
        line_chart([Series("a", [(1024, 1e-9), (2048, 1e4)], 0)], "bits", "far"),
        stacked_bars([Stack(x, [(f"phase {n}", 1e-3) for n in range(8)]) for x in names], "many"),
        stacked_bars([Stack("a", [("p", 1e-3)]), Stack("b", [("q", 700.0)])], "two"),
        compare_predictions([(x, 1e-3, 1e-3 * n) for n, x in enumerate(names, 1)], "many"),
        compare_predictions([("a", 1e-3, 1e-3)], "one"),
    ]
    drawn = "".join(f"<figure><figcaption></figcaption>{chart}</figure>" for chart in charts)
    probe = probed(f"{whole().partition('<body>')[0]}<body>{drawn}</body></html>", tmp_path)
    assert len(probe["seen"]) == len(charts)
    test_no_label_is_cut_off_or_lies_on_another(probe)


def test_the_page_is_as_wide_as_the_window(probe: dict[str, Any]) -> None:
    assert probe["wide"] <= probe["width"]


def test_not_valid_is_said_big_with_its_reasons(probe: dict[str, Any]) -> None:
    words, size = probe["bad"]
    assert words.startswith("NOT VALID")
    assert size >= 30
    text = unescape(whole())
    assert "pi: under-voltage during the measurement (vcgencmd get_throttled: 0x50005)" in text
    assert text.index("under-voltage") < text.index("device: figures", text.index("NOT VALID</s"))


def test_each_case_is_described_once_where_there_are_cases() -> None:
    assert whole().count("<b>decrypt</b>: combine n answers, and decrypt") == 1
    assert "<b>decrypt</b>" not in page([("rounds.json", rounds())])


def test_the_kind_stands_in_every_title() -> None:
    text = whole()
    titles = re.findall(r"<(h[123]|figcaption)>(.*?)</\1>", text)
    assert len(titles) > 25
    for _, title in titles:
        assert re.match(
            r"(device|emulated|host): |Measured latency \(device, emulated, host\)", title
        )


def test_it_can_be_read_in_the_dark_too(probe: dict[str, Any], tmp_path: Path) -> None:
    dark = probed(whole(), tmp_path, "--blink-settings=preferredColorScheme=0")
    for each in (probe, dark):
        assert contrast(each["ink"], each["page"]) > 10
        colours = {colour for figure in each["seen"] for colour in figure["colours"]}
        assert len(colours) >= 8
        assert all(contrast(colour, each["page"]) > 4 for colour in colours)
    assert luminance(dark["page"]) < 0.05
    assert luminance(probe["page"]) > 0.9


def luminance(colour: str) -> float:
    """WCAG's relative luminance of `rgb(r, g, b)`."""
    parts = [int(number) / 255 for number in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: str, b: str) -> float:
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_fleets_of_several_sizes_are_charted_together_unless_they_differ_otherwise() -> None:
    def fleet(seed: int, **settings: Any) -> tuple[str, Measurement]:
        made = [benchmark("round, pi", {"target": "pi"}, samples(Random(seed), 1e-2 * seed))]
        sizes = {"key_bits": 2048, "nodes": 4, "edges": 4, "exchange": "sealed"}
        return "any.json", document(made, what="rounds", settings={**sizes, **settings})

    def titles(*documents: tuple[str, Measurement]) -> list[str]:
        return re.findall("<figcaption>(.*? median against .*?)</figcaption>", page(documents))

    assert titles(fleet(1), fleet(2, key_bits=3072)) == [
        "device: median against key size, bits (n=2)"
    ]
    assert titles(fleet(1), fleet(2, edges=6)) == [
        "device: median against n, number of neighbours (2048 bits)"
    ]
    assert titles(fleet(1), fleet(2, key_bits=3072, exchange="pairwise")) == []
    assert titles(fleet(1), fleet(2)) == []


def test_more_phases_than_colours_are_added_up() -> None:
    made = rounds(2)
    node = made.cipherfleet.nodes[0]
    short = {f"p{n}": figure(f"p{n}", {}, [1e-5 * (n + 1)] * 9) for n in range(9)}
    crowded = replace(node, phases={**node.phases, **short})
    probe = replace(made.cipherfleet, nodes=[crowded, *made.cipherfleet.nodes[1:]])
    text = page([("any.json", replace(made, cipherfleet=probe))])
    parts = re.findall(r"<title>node0, (.*?): (.*?)</title>", text)
    assert [name for name, _ in parts] == [
        "wait", "decrypt", "answer", "encrypt", "p8", "p7", "p6", "6 others",
    ]  # fmt: skip
    assert parts[-1][1] == "210 µs"
    assert ">p6<" in text
    assert ">p5<" not in text


# -- nothing from outside ------------------------------------------------------------------------


LEAK = "http://127.0.0.1:9/leak.png"  # no server listens there


@pytest.mark.parametrize(
    ("hostile", "lawless", "asked"),
    [(False, False, []), (True, False, []), (True, True, [LEAK])],
    ids=["the page", "an image put in", "the same without our policy"],
)
def test_nothing_is_fetched(hostile: bool, lawless: bool, asked: list[str], tmp_path: Path) -> None:
    text = whole()
    if hostile:
        text = text.replace("</body>", f'<img src="{LEAK}"></body>')
    if lawless:
        text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    (tmp_path / "report.html").write_text(text)
    chromium(
        f"--log-net-log={tmp_path / 'net.json'}",
        f"--screenshot={tmp_path / 'seen.png'}",
        (tmp_path / "report.html").as_uri(),
        folder=tmp_path,
    )
    assert (tmp_path / "seen.png").stat().st_size > 10_000
    assert list(asked_for(tmp_path / "net.json")) == asked


def asked_for(net_log: Path) -> Iterator[str]:
    """What the page asked the network for; what the browser asks for itself has no origin."""
    text = net_log.read_text().rstrip()
    log = json.loads(text if text.endswith("}") else text.rstrip(",") + "]}")
    start = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    for event in log["events"]:
        probe = event.get("params", {})
        if event["type"] == start and probe.get("initiator", "not an origin") != "not an origin":
            yield probe["url"]


def test_the_page_names_no_place_outside_and_lets_nothing_in() -> None:
    text = whole()
    assert re.findall(r"https?:", text) == []
    assert re.findall(r'(?:href|src)="(?!#)', text) == []
    assert re.findall(r' id="(.*?)"', text) == ["m0", "m1", "m2", "m3"]
    assert re.findall(r"@import|url\(|<script|<link|<img|<iframe|javascript:", text) == []
    assert "default-src 'none'; style-src 'unsafe-inline'" in text
    assert "&lt;at&gt; 2048 bits" in text
    assert "<at>" not in text


# -- the parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (2.2057, "2.21 s"), (0.9999, "1 s"), (0.0999, "99.9 ms"), (0.00213, "2.13 ms"),
        (7.3e-6, "7.3 µs"), (1e-9, "1 ns"), (12_345.0, "12,345 s"),
    ],
)  # fmt: skip
def test_times_have_three_digits(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


@pytest.mark.parametrize(
    "samples_",
    [[1e-3], [1e-3] * 50, [1e-3, 2e-3], [*[1e-3] * 99, 5.0], [1e-9 * n for n in range(1, 400)]],
    ids=["one", "alike", "two", "an outlier", "many"],
)
def test_any_samples_have_a_histogram(samples_: list[float]) -> None:
    chart = histogram(samples_, "any")
    drawn = sum(int(count) for count in re.findall(r"<title>(\d+) samples</title>", chart))
    beyond = re.search(r", (\d+) beyond", chart)
    assert drawn + int(beyond[1] if beyond else 0) == len(samples_)
    assert "nan" not in chart


def test_charts_of_one_point_or_bar_are_charts() -> None:
    for chart in (
        line_chart([Series("a", [(1.0, 1e-3)], 0)], "x", "any"),
        stacked_bars([Stack("a", [("p", 1e-3)])], "any"),
        compare_predictions([("a", 1e-3, 1e-3)], "any"),
    ):
        assert "nan" not in chart
        assert chart.startswith("<svg")


def test_names_are_shown_as_they_are() -> None:
    chart = line_chart([Series("_暗号 $x_1$ <&>", [(1.0, 1e-3), (2.0, 1e-3)], 0)], "x", "any")
    assert ">_暗号 $x_1$ &lt;&amp;&gt;</text>" in chart
    assert chart == line_chart(
        [Series("_暗号 $x_1$ <&>", [(1.0, 1e-3), (2.0, 1e-3)], 0)], "x", "any"
    )


def test_the_summary_has_the_verdicts_and_all_figures(tmp_path: Path) -> None:
    made = many()
    summary = write_report(made, tmp_path / "report.html")
    assert summary == tmp_path / "report.md"
    text = summary.read_text()
    assert text == markdown(made)
    assert text.count("**NOT VALID**") == 1
    assert text.count("**VALID**") == 3
    assert "* because pi: throttled during the measurement" in text
    assert "(UNSAFE key)" in text
    for _, each in made:
        assert f"## {each.cipherfleet.kind}: " in text
        assert all(f"| {figure.name}" in text for figure in each.cipherfleet.figures)


def test_the_command_writes_both_and_reports_what_is_not_valid(tmp_path: Path) -> None:
    made = many()
    for name, each in made:
        write_measurement(tmp_path / name, each)
    out = tmp_path / "out.html"
    words = ["bench", "report", *(tmp_path / name for name, _ in made), "--out", out, "--json"]
    done = run_here(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert check_result("report-result", done.stdout) == {
        "report": str(out),
        "summary": str(tmp_path / "out.md"),
        "valid": {
            "small.json": True,
            "large.json": False,
            "rounds.json": True,
            "chatty.json": True,
        },
    }
    assert out.read_text() == whole()


def test_a_page_that_would_be_its_own_summary_or_cannot_be_written_is_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match=r"a name that ends in \.html"):
        write_report(many(), tmp_path / "report.md")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/report\.html: cannot be written: "):
        write_report(many(), tmp_path / "file" / "report.html")


def test_the_folder_of_a_page_is_made(tmp_path: Path) -> None:
    made = [("rounds.json", rounds(3))]
    summary = write_report(made, tmp_path / "new" / "one" / "report.html")
    assert (tmp_path / "new" / "one" / "report.html").read_text() == page(made)
    assert summary.is_file()
