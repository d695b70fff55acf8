"""Every error the project raises, each told apart by whose mend it is, with its exit code."""

from __future__ import annotations

from typing import ClassVar


class CipherfleetError(Exception):
    """Base of all errors; its text is one line fit for an operator, never a secret."""

    exit_code: ClassVar[int] = 1


class ConfigError(CipherfleetError):
    """The operator's to mend: names the file, the place, what was found and what is allowed."""

    exit_code = 3


class LocalProtocolError(CipherfleetError):
    """Our own bug: an event that the present phase does not allow. Never caught."""


class RemoteProtocolError(CipherfleetError):
    """A neighbour's fault: the message is dropped and counted under *reason*, never fatal."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class WireError(RemoteProtocolError):
    """Bytes that do not parse: version, length or range."""


class HeadroomExceeded(CipherfleetError):
    """A value would leave its slot: stop before encrypting."""


class SensorUnavailable(CipherfleetError):
    """No usable reading this time; the daemon tries again at the next round."""


class StateCorrupt(CipherfleetError):
    """A state file fails its checksum; the previous generation is used, the text says how."""


class StateNotSaved(CipherfleetError):
    """The disk does not take the state: stop before sending anything of it."""


class BrokerUnreachable(CipherfleetError):
    """No broker answers at the configured address."""

    exit_code = 4


class IdentityClash(CipherfleetError):
    """Another client keeps taking our identity at the broker: a cloned card, most likely."""

    exit_code = 6
