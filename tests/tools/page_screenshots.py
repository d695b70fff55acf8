"""Screenshots of the page for docs/how-to/watch-a-fleet.md: python -m tests.tools.page_screenshots.

Ten real daemons of examples/intel_lab, one of which is killed; then a finished run. Takes about
four minutes. Needs chromium.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from cipherfleet_broker import start_broker
from cipherfleet_deploy.local.launched import Launcher
from cipherfleet_deploy.local.processes import LocalFleet
from cipherfleet_node.settings.sections import Broker, Simulation
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.fleet.file import Overrides
from cipherfleet_provisioning.fleet.fleet import load_fleet
from tests.support.browser import Page, open_browser
from tests.support.page_server import serve_page
from tests.support.paths import ROOT

EXAMPLE = ROOT / "examples" / "intel_lab"
IMAGES = ROOT / "docs" / "images"
WAIT_S = 600.0


def main() -> int:
    """Write page-fleet.png, page-rounds.png and page-error.png."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--out", type=Path, default=IMAGES)
    out = options.parse_args().out
    with tempfile.TemporaryDirectory() as name, open_browser(_fail) as page:
        folder = Path(name)
        text = (EXAMPLE / "fleet.yaml").read_text()
        text = text.replace("key_bits: 2048", "key_bits: 1024\n  allow_weak_keys: true")
        (folder / "fleet.yaml").write_text(text)
        (folder / "intel_lab.csv").symlink_to(EXAMPLE / "intel_lab.csv")
        _show_live(page, folder, out)
        _show_finished(page, folder, out)
    if page.problems:
        _fail("\n".join(page.problems))
    return 0


def _show_live(page: Page, folder: Path, out: Path) -> None:
    overrides = Overrides(nodes=10, rounds=100_000)
    fleet = load_fleet(folder / "fleet.yaml", overrides)
    with start_broker("embedded") as broker, Launcher() as launcher:
        address = Broker(host=broker.host, port=broker.port)
        bundles = write_bundles(fleet, folder / "live" / "nodes", address, Simulation(seed=7))
        with (
            LocalFleet(bundles, WAIT_S, launcher=launcher) as nodes,
            serve_page(folder / "live") as server,
        ):
            page.open(server.address)
            nodes.start()
            page.wait_for("state.summary.settled > 0 && state.history.length > 12", WAIT_S)
            nodes.kill("mote28")
            page.wait_for("state.summary.standing.lost === 1", WAIT_S)
            page.wait_for("state.history.at(-1).silent > 0", WAIT_S)
            page.screenshot(out / "page-fleet.png", 820)
            page.evaluate("location.hash = '#rounds'")
            page.screenshot(out / "page-rounds.png", 760)


def _show_finished(page: Page, folder: Path, out: Path) -> None:
    command = [sys.executable, "-m", "cipherfleet_deploy", "run", str(folder / "fleet.yaml")]
    options = ["--nodes", "10", "--out", str(folder / "run")]
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
    page.prefer("dark")
    with serve_page(folder / "run") as server:
        page.open(f"{server.address}#error")
        page.wait_for("charts.error?.plot != null", WAIT_S)
        page.screenshot(out / "page-error.png", 660)


def _fail(text: str) -> None:
    sys.exit(text)


if __name__ == "__main__":
    sys.exit(main())
