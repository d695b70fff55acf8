"""The seed that cloud-init reads: user-data, meta-data and network-config."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from cipherfleet_deploy.data_folders import devices_folder
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import NodeConfig

ENABLE = "enable-first-boot.sh"
HEADER = "#cloud-config\n"
NETWORK: dict[str, object] = {
    "version": 2,
    "ethernets": {"eth0": {"dhcp4": True, "optional": True}},
}
_INSTANCE = re.compile(rb"(\bds=nocloud(?:-net)?(?:;[^\s;]*)*?;(?:i|instance-id)=)[^\s;]*")


def user_data(config: NodeConfig, given: Path | None, present: bytes) -> bytes:
    """Return the cloud-config of *given*, else of *present*, with the first boot enabled.

    The text of enable-first-boot.sh is a command of `bootcmd`, which cloud-init runs at every boot.
    A command of `runcmd` would run once for each seed, and not again after a power cut.
    """
    where = str(given) if given else "user-data on the card"
    text = given.read_bytes() if given else present
    result = _parse_mapping(where, text)
    if result and not text.startswith(HEADER.strip().encode()):
        raise ConfigError(
            f"{where}: does not begin with #cloud-config, so the first-boot command cannot be "
            "added",
            remedy="give a file that does with --user-data FILE",
        )
    commands = result.get("bootcmd", [])
    if not isinstance(commands, list):
        raise ConfigError(f"{where}: bootcmd is not a list", remedy="write a list of commands")
    result.setdefault("hostname", host_name(config))
    script = (devices_folder() / ENABLE).read_text()
    kept = (command for command in commands if not _enables_first_boot(command))
    result["bootcmd"] = [*kept, ["sh", "-c", script]]
    return (HEADER + yaml.safe_dump(result, sort_keys=False)).encode()


def _enables_first_boot(command: object) -> bool:
    """True if an earlier seed has added *command*."""
    return isinstance(command, list) and "cipherfleet-first-boot" in str(command)


def network_config(given: Path | None, present: bytes) -> bytes:
    """Return the operator's file, else the one on the card, else Ethernet with DHCP."""
    text = given.read_bytes() if given else present
    result = _parse_mapping(str(given) if given else "network-config on the card", text)
    if result:
        return text
    if given:
        raise ConfigError(
            f"{given}: is empty", remedy="write a network-config, version 2 (netplan)"
        )
    return yaml.safe_dump(NETWORK, sort_keys=False).encode()


def instance_id(config: NodeConfig, digest: str) -> str:
    """Return the instance id of a seed. Each seed has another one: cloud-init runs it only then."""
    return f"cipherfleet-{config.fleet}-{config.node}-{digest[:12]}"


def kernel_line(present: bytes, instance: str) -> bytes:
    """Replace the instance id in cmdline.txt, if there is one: it overrides that in meta-data."""
    return _INSTANCE.sub(lambda found: found[1] + instance.encode(), present)


def meta_data(config: NodeConfig, instance: str, present: bytes) -> bytes:
    """Return meta-data with our instance id and host name, and the card's other settings."""
    kept = _parse_mapping("meta-data on the card", present)
    for name in ("instance-id", "instance_id", "local-hostname"):
        kept.pop(name, None)
    ours: dict[str, object] = {
        "instance-id": instance,
        "local-hostname": host_name(config),
    }
    return yaml.safe_dump(ours | kept, sort_keys=False).encode()


def host_name(config: NodeConfig) -> str:
    """Return the node's id as a host name: without underscores, and no dash at either end."""
    return config.node.replace("_", "-").strip("-").lower()


def _parse_mapping(where: str, text: bytes) -> dict[str, object]:
    try:
        result = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(
            f"{where}{place}: is not valid YAML", remedy="correct it, or give another file"
        ) from None
    if result is None:
        return {}
    if not isinstance(result, dict):
        raise ConfigError(f"{where}: is not a mapping of settings", remedy="give another file")
    return result
