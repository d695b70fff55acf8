"""Write the containers of a fleet as a Compose file, for `docker compose`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from .engine import HEALTH_EVERY_S, HEALTH_FROM_S, HEALTH_WITHIN_S, MAX_PROCESSES, MAX_RESTARTS
from .limits import MIB
from .plan import BROKER_HOST, STOP_WITHIN_S, Container, hand_over

COMPOSE_FILE = "compose.yaml"
NETWORK = "fleet"


def compose(
    fleet: str, containers: Sequence[Container], root: Path, image: str, user: str
) -> dict[str, object]:
    """Return the content of a Compose file for *root*, the folder of the containers' folders."""
    return {
        # Compose allows lower case only; the fleet keeps its own name in its settings.
        "name": f"cipherfleet-{fleet.lower()}",
        "services": {each.name: _service(each, root, image, user) for each in containers},
        "networks": {NETWORK: {"internal": True}},
    }


def _service(container: Container, root: Path, image: str, user: str) -> dict[str, object]:
    folder = container.folder.relative_to(root)
    service: dict[str, object] = {
        "image": image,
        "command": list(container.command),
        "working_dir": container.place,
        "user": user,
        "init": True,
        "read_only": True,
        "tmpfs": ["/tmp:size=16m,mode=1777"],  # noqa: S108  # inside
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": MAX_PROCESSES,
        "restart": f"on-failure:{MAX_RESTARTS}",
        "stop_grace_period": f"{STOP_WITHIN_S}s",
        "volumes": [f"./{folder}:{container.place}"],
        "networks": {NETWORK: {"aliases": [container.name]}},
        "healthcheck": {
            "test": ["CMD", *container.health],
            "interval": f"{HEALTH_EVERY_S}s",
            "timeout": f"{HEALTH_WITHIN_S}s",
            "start_period": f"{HEALTH_FROM_S}s",
            "retries": 3,
        },
    }
    if container.profile is not None:
        service["cpus"] = container.profile.cpu
        service["mem_limit"] = f"{container.profile.memory // MIB}m"
        service["memswap_limit"] = service["mem_limit"]
    if not container.is_broker:
        service["depends_on"] = [BROKER_HOST]
    return service


def write_compose(
    fleet: str, containers: Sequence[Container], root: Path, image: str, user: str
) -> Path:
    """Write <root>/compose.yaml, and make *user* the owner of the containers' folders."""
    for each in containers:
        hand_over(each.folder, user)
    file = root / COMPOSE_FILE
    head = "# docker compose up --detach; the folders beside this file hold private keys\n"
    content = compose(fleet, containers, root, image, user)
    file.write_text(head + yaml.safe_dump(content, sort_keys=False))
    return file
