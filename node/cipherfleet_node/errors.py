"""Every error the project raises, each told apart by whose mend it is."""

from __future__ import annotations


class CipherfleetError(Exception):
    """Base of all errors; its text is one line fit for an operator, never a secret."""


class ConfigError(CipherfleetError):
    """The operator's to mend: names the file, the place, what was found and what is allowed."""


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


class BrokerUnreachable(CipherfleetError):
    """No broker answers at the configured address."""


class IdentityClash(CipherfleetError):
    """Another client keeps taking our identity at the broker: a cloned card, most likely."""
