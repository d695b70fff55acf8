"""Build the documentation site: `make site` writes it to build/site.

The pages are the Markdown files of the repository, which stay readable where they are. They are
copied to a folder of the same layout. There, links to files that are no pages lead to the address
of the source in pyproject.toml, and docs/README.md becomes the front page and the table of
contents. Sphinx then builds the copy, and every warning is an error: a dead link, an unknown
anchor, a page that docs/README.md does not list. The site needs no network and no server: open
index.html.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
FRONT = PurePosixPath("docs/README.md")  # becomes index.md
SETTINGS = ROOT / "docs" / "site"
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)#\s]+)(#[^)\s]*)?\)")
ANCHOR = re.compile(r'^<a id="([\w-]+)"></a>$', re.M)
FENCE = re.compile(r"(^ *```.*?^ *```$)", re.S | re.M)


def main() -> int:
    """Run the command line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--out", type=Path, default=ROOT / "build" / "site", metavar="DIR")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="cipherfleet-site-") as folder:
        done = build(Path(folder), given.out)
    print(done.stderr or f"{given.out}/index.html", file=sys.stderr if done.stderr else sys.stdout)
    return done.returncode


def build(folder: Path, out: Path, jobs: str = "auto") -> subprocess.CompletedProcess[str]:
    """Copy the pages to *folder* and build the site into *out*."""
    copy_pages(folder / "pages")
    shutil.rmtree(out, ignore_errors=True)
    return run(sphinx_command(folder, out, jobs))


def sphinx_command(folder: Path, out: Path, jobs: str = "auto") -> list[str | Path]:
    """The command that builds the folder `pages` in *folder*. Every warning is an error."""
    return [
        *(sys.executable, "-m", "sphinx", "--builder", "html", "--fail-on-warning", "--quiet"),
        *("--keep-going", "--jobs", jobs, "--conf-dir", SETTINGS),
        *("--doctree-dir", folder / "doctrees", folder / "pages", out),
    ]


def run(command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    """Run *command* and keep what it prints."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def copy_pages(folder: Path) -> None:
    """Copy all pages and their pictures, as Sphinx needs them."""
    files = repository_files()
    pages = {file for file in files if file.suffix == ".md"}
    for file in files:
        if file.suffix in {".svg", ".png"}:
            place = folder / file
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, place)
    for page in pages:
        place = folder / ("index.md" if page == FRONT else page)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(page_text(page, pages))


def repository_files() -> set[PurePosixPath]:
    """The files of the repository, relative to its root, ignored ones left out."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {PurePosixPath(line) for line in listed.stdout.splitlines() if (ROOT / line).exists()}


def page_text(page: PurePosixPath, pages: set[PurePosixPath]) -> str:
    """The text of *page* for Sphinx, of the front page with a table of contents."""
    text = (ROOT / page).read_text()
    parts = FENCE.split(text)
    for place in range(0, len(parts), 2):  # the others are code
        parts[place] = LINK.sub(lambda found: link_for_site(found, page, pages), parts[place])
        parts[place] = ANCHOR.sub(r"(\1)=", parts[place])
    written = "".join(parts)
    return written + contents(text, pages) if page == FRONT else written


def link_for_site(found: re.Match[str], page: PurePosixPath, pages: set[PurePosixPath]) -> str:
    """A link of *page* as the site has it. A link to nothing stays, so that Sphinx reports it."""
    words, target, anchor = found[1], found[2], found[3] or ""
    if "://" in target or target.startswith("mailto:"):
        return found[0]
    file = PurePosixPath(os.path.normpath(page.parent / target))
    if file not in pages and not words.startswith("!") and (ROOT / file).exists():
        return f"{words}{source_address()}/{file}{anchor})"
    start = PurePosixPath(".") if page == FRONT else page.parent
    shown = PurePosixPath("index.md") if file == FRONT else file
    return f"{words}{os.path.relpath(shown, start)}{anchor})"


def source_address() -> str:
    """The address of the files of this version, from pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return f"{project['urls']['Source']}/blob/v{project['version']}"


def contents(front: str, pages: set[PurePosixPath]) -> str:
    """A hidden table of contents for each section of *front*, with the pages it links to."""
    tables, seen = "", {FRONT}
    for section in re.split(r"^## ", front, flags=re.M)[1:]:
        listed = [
            PurePosixPath(os.path.normpath(FRONT.parent / target))
            for _, target, _ in LINK.findall(section)
        ]
        chosen = [each for each in dict.fromkeys(listed) if each in pages - seen]
        seen.update(chosen)
        caption = section.partition("\n")[0]
        lines = "\n".join(str(each.with_suffix("")) for each in chosen)
        tables += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```\n"
    return tables


if __name__ == "__main__":
    sys.exit(main())
