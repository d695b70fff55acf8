"""Every error the project raises, each told apart by whose mend it is, with its exit code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


class CipherfleetError(Exception):
    """Base of all errors; its text is one line fit for an operator, never a secret."""

    exit_code: ClassVar[int] = 1


@dataclass(frozen=True, order=True)
class Mark:
    """A place in a file, counted from 1 as editors do."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class ConfigError(CipherfleetError):
    """The operator's to mend: names the file, the place, what was found and what is allowed.

    *mark* is the place and *path* leads to the value, where the mistake stands in a document.
    """

    exit_code = 3

    def __init__(
        self, text: str, mark: Mark | None = None, path: tuple[str | int, ...] | None = None
    ) -> None:
        super().__init__(text)
        self.mark, self.path = mark, path

    @property
    def findings(self) -> tuple[ConfigError, ...]:
        """The mistakes, each told by itself."""
        return (self,)


class ConfigErrors(ConfigError):
    """Several mistakes found at once; its own text is the first of them and how many follow."""

    def __init__(self, findings: tuple[ConfigError, ...]) -> None:
        super().__init__(f"{findings[0]} (and {len(findings) - 1} more)", findings[0].mark)
        self._findings = findings

    @property
    def findings(self) -> tuple[ConfigError, ...]:
        """The mistakes, in the order of their places."""
        return self._findings


def refuse(findings: Iterable[ConfigError]) -> None:
    """Raise what was found, in the order of its places: nothing, one ConfigError or ConfigErrors.

    What has no place in a file comes last.
    """
    nowhere = Mark("\U0010ffff", 0, 0)
    found = sorted(findings, key=lambda finding: finding.mark or nowhere)
    if len(found) == 1:
        raise found[0]
    if found:
        raise ConfigErrors(tuple(found))


AS_OWNER = "run it as the user who owns the folder, or as root"


def remedy_for(error: OSError, otherwise: str) -> str:
    """The remedy for a file that cannot be read; *otherwise* if permission is not the reason."""
    return AS_OWNER if isinstance(error, PermissionError) else otherwise


def one_line(text: str) -> str:
    """*text* with its control characters written as escapes: a file may be called anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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

    exit_code = 3


class StateNotSaved(CipherfleetError):
    """The disk does not take the state: stop before sending anything of it."""


class BrokerUnreachable(CipherfleetError):
    """No broker answers at the configured address."""

    exit_code = 4


class IdentityClash(CipherfleetError):
    """Another client keeps taking our identity at the broker: a cloned card, most likely."""

    exit_code = 6
