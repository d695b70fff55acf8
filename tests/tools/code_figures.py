"""Print figures of the code: `make figures-of-code`, or as JSON with `--json`.

It reads the packages as text and runs nothing. Lengths are lines of a function without decorators.
The import contracts (`lint-imports`) cover upward and circular imports.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "node/cipherfleet_node",
    "broker/cipherfleet_broker",
    "provisioning/cipherfleet_provisioning",
    "analysis/cipherfleet_analysis",
    "deploy/cipherfleet_deploy",
    "hil_tests/cipherfleet_hil",
    "lab/cipherfleet_lab",
)
LONG_FILE = 400  # lines
SHORT_DOCSTRING = 4  # words


@dataclass(frozen=True)
class CodeFigures:
    """Figures of all packages together."""

    files: int
    lines: int
    long_files: list[str]
    functions: int
    function_lines_median: float
    function_lines_p95: int
    function_lines_max: int
    classes_defined_twice: list[str]
    untyped_dictionaries_in_deploy: int
    short_docstrings: list[str]


def main() -> int:
    """Run the command line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    given = options.parse_args()
    figures = asdict(measure_code())
    if given.json:
        print(json.dumps(figures, indent=2))
    else:
        for name, figure in figures.items():
            if isinstance(figure, list):
                print(f"{name:32} {len(figure)}")
                print("".join(f"    {each}\n" for each in figure), end="")
            else:
                print(f"{name:32} {figure}")
    return 0


def measure_code() -> CodeFigures:
    """Measure every package of the repository."""
    texts = {
        f: f.read_text() for package in PACKAGES for f in sorted((ROOT / package).rglob("*.py"))
    }
    trees = {file: ast.parse(text) for file, text in texts.items()}
    lengths = sorted(length for tree in trees.values() for length in _function_lengths(tree))
    classes = Counter(
        node.name
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    )
    return CodeFigures(
        files=len(texts),
        lines=sum(_lines(text) for text in texts.values()),
        long_files=[
            f"{file.relative_to(ROOT)} {_lines(text)}"
            for file, text in texts.items()
            if _lines(text) > LONG_FILE
        ],
        functions=len(lengths),
        function_lines_median=median(lengths),
        function_lines_p95=lengths[int(0.95 * len(lengths))],
        function_lines_max=lengths[-1],
        classes_defined_twice=sorted(
            f"{name} {count}"
            for name, count in classes.items()
            if count > 1 and not name.startswith("_")
        ),
        untyped_dictionaries_in_deploy=sum(
            text.count("dict[str, Any]") for file, text in texts.items() if "deploy" in file.parts
        ),
        short_docstrings=[
            f"{file.relative_to(ROOT)}: {text}"
            for file, tree in trees.items()
            for text in _docstrings(tree)
            if len(text.split()) <= SHORT_DOCSTRING
        ],
    )


def _lines(text: str) -> int:
    return text.count("\n")


def _function_lengths(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            yield node.end_lineno - node.lineno + 1


def _docstrings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


if __name__ == "__main__":
    sys.exit(main())
