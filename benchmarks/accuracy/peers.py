"""What users would pick instead of cipherfleet and of phe: whether it is installed here.

They are no dependencies of cipherfleet, and this benchmark does not run them.
"""

from __future__ import annotations

import importlib.util

PACKAGES = {"Flower": "flwr", "Flower with SecAgg+": "flwr", "NVFlare": "nvflare"}


def peers_not_run() -> dict[str, str]:
    """Return for every system why it has no figures."""
    return {name: _reason(package) for name, package in PACKAGES.items()}


def _reason(package: str) -> str:
    if importlib.util.find_spec(package) is None:
        return f"not installed (pip install {package}, in an environment of its own)"
    return "installed, and not run by this command"
