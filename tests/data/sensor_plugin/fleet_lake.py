"""A sensor of another package: the level of a lake, from a file that stands for a serial port."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError, SensorUnavailable
from cipherfleet_node.findings import Finding
from cipherfleet_node.sensors.plugins import SensorPlugin
from cipherfleet_node.settings.sections import Section


class Settings(Section, frozen=True):
    """The gauge at a serial port."""

    source: str
    port: str = "/dev/ttyUSB0"
    baud: Annotated[int, Meta(ge=300)] = 9600


class Gauge:
    fields = ("level_m", "hour")

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._file = folder / settings.source
        if not self._file.exists():
            raise ConfigError(f"{self._file}: is not here")

    def read(self) -> list[Sample]:
        text = self._file.read_text()
        if text == "dry":
            raise SensorUnavailable("the gauge is dry")
        level, hour = map(float, text.split())  # a wrong text is an error of this package
        return [Sample({"level_m": level, "hour": hour})]

    def close(self) -> None:
        self._file.with_suffix(".closed").touch()


def check(settings: Settings) -> Iterator[Finding]:
    yield Finding("ok", "gauge", f"{settings.port} at {settings.baud} baud")


lake = SensorPlugin(
    settings=Settings,
    open=Gauge,
    fields=lambda _settings: Gauge.fields,
    devices=lambda settings: [settings.port],
    check=check,
)
