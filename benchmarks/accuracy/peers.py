"""What users would pick instead of cipherfleet and of phe, where this command has not run it.

None of them is a dependency of cipherfleet. Flower runs in an environment of its own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection

# By the name of a method of this command.
FLOWER = {"flower": "Flower", "flower-secagg": "Flower with SecAgg+"}


def peers_not_run(methods: Collection[str]) -> dict[str, str]:
    """Return for every system why it has no figures; *methods* have run."""
    flower = {
        title: "not run (--flower-python, with the interpreter of an environment of its own)"
        for name, title in FLOWER.items()
        if not {name, f"{name}-simulated"} & set(methods)
    }
    return {**flower, "NVFlare": _reason("nvflare")}


def _reason(package: str) -> str:
    if importlib.util.find_spec(package) is None:
        return f"not installed (pip install {package}, in an environment of its own)"
    return "installed, and not run by this command"
