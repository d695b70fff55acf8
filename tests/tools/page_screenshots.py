"""Screenshots for docs/how-to/watch-a-fleet.md: python -m tests.tools.page_screenshots.

The views of a fleet show the recording that tests/deploy/test_page_in_browser.py shows: the fifty
motes of examples/intel_lab, some of them with faults. The error is that of a finished run: of
`cipherfleet demo`, which takes a minute, or of the folder given with --run. Needs chromium.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from cipherfleet_provisioning.fleet.fleet import load_fleet
from tests.support.browser import Page, open_browser
from tests.support.page_recording import write_recording
from tests.support.page_server import serve_page
from tests.support.paths import ROOT

FLEET = ROOT / "examples" / "intel_lab" / "fleet.yaml"
IMAGES = ROOT / "docs" / "images"


def main() -> int:
    """Write page-fleet.png, page-rounds.png and page-error.png."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--out", type=Path, default=IMAGES)
    options.add_argument("--run", type=Path, help="folder of a finished run (default: a new demo)")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name, open_browser(_fail) as page:
        _show_fleet(page, Path(name), given.out)
        _show_error(page, given.run or _run_demo(Path(name)), given.out)
        if page.problems:
            _fail("\n".join(page.problems))
    return 0


def _show_fleet(page: Page, folder: Path, out: Path) -> None:
    write_recording(folder / "record.jsonl", load_fleet(FLEET).graph.ids)
    page.prefer("light")
    with serve_page(FLEET, "--replay", folder / "record.jsonl") as server:
        page.open(f"{server.address}#fleet")
        page.wait_for("state.summary !== null")
        page.screenshot(out / "page-fleet.png", 960)
        page.evaluate("location.hash = '#rounds'")
        page.wait_for("charts.pool?.plot != null")
        page.screenshot(out / "page-rounds.png", 1080)
        page.close_document()


def _run_demo(folder: Path) -> Path:
    command = [sys.executable, "-m", "cipherfleet_deploy", "demo", "--out", str(folder / "demo")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "demo"


def _show_error(page: Page, run: Path, out: Path) -> None:
    page.prefer("dark")
    with serve_page(run) as server:
        page.open(f"{server.address}#error")
        page.wait_for("charts.error?.plot != null")
        page.screenshot(out / "page-error.png", 700)
        page.close_document()


def _fail(text: str) -> None:
    sys.exit(text)


if __name__ == "__main__":
    sys.exit(main())
