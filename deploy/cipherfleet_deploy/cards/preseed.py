"""The seed for systems that read rpi-preseed.toml, which is to replace cloud-init on Raspberry Pis.

Source: https://github.com/raspberrypi/rpi-preseed, configuration version 1.1.
"""

from __future__ import annotations

from pathlib import Path

import tomlkit
from tomlkit.exceptions import TOMLKitError

from cipherfleet_node.errors import ConfigError

from .boot_partition import PRESEED_FILE

CONFIG_VERSION = "1.1"


def preseed(host_name: str, command: str, given: Path | None, present: bytes) -> bytes:
    """Return *given*, else *present*, with the shell *command* among those that run early.

    Comments and settings are kept. *host_name* is set unless another one is there. Raises
    ConfigError if the text is not valid.
    """
    where = str(given) if given else f"{PRESEED_FILE} on the card"
    text = given.read_bytes() if given else present
    try:
        document = tomlkit.parse(text.decode())
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: is not valid TOML ({error})", remedy="correct it") from None
    if "config_version" not in document:
        document["config_version"] = CONFIG_VERSION
    system = _section(document, "system", where)
    system.setdefault("hostname", host_name)
    runcmd = _section(document, "runcmd", where)
    early = runcmd.get("early", [])
    if not isinstance(early, list) or not all(isinstance(each, str) for each in early):
        raise ConfigError(f"{where}: runcmd.early is not a list of texts", remedy="write a list")
    if command not in early:
        runcmd["early"] = [*early, command]
    return tomlkit.dumps(document).encode()


def _section(
    document: tomlkit.TOMLDocument, name: str, where: str
) -> tomlkit.items.Table | dict[str, object]:
    section = document.setdefault(name, tomlkit.table())
    if not isinstance(section, dict):
        raise ConfigError(f"{where}: {name} is not a section", remedy=f"write [{name}]")
    return section
