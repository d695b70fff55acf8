"""The exceptions of the project. Each class says who can fix the problem, and its exit code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


class CipherfleetError(Exception):
    """The base of all our errors. Its text is one line for the operator and contains no secret.

    *remedy* says what the operator can do; `str(error)` shows it after the text and "; ".
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, text: str, *, remedy: str = "") -> None:
        super().__init__(f"{text}; {remedy}" if remedy else text)
        self.text, self.remedy = text, remedy


@dataclass(frozen=True, order=True)
class Mark:
    """A place in a file. Lines and columns count from 1, as in editors."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class ConfigError(CipherfleetError):
    """An error that the operator can fix. It names file, place, the value and what is allowed.

    If the error is in a document, *mark* is its place and *path* leads to the value.
    """

    exit_code = 3

    def __init__(
        self,
        text: str,
        mark: Mark | None = None,
        path: tuple[str | int, ...] | None = None,
        *,
        remedy: str = "",
    ) -> None:
        super().__init__(text, remedy=remedy)
        self.mark, self.path = mark, path

    @property
    def findings(self) -> tuple[ConfigError, ...]:
        """The single errors: here only this one."""
        return (self,)


class ConfigErrors(ConfigError):
    """Several errors found at once: text and remedy of the first, and the number of the others."""

    def __init__(self, findings: tuple[ConfigError, ...]) -> None:
        first, others = findings[0], len(findings) - 1
        super().__init__(f"{first.text} (and {others} more)", first.mark, remedy=first.remedy)
        self._findings = findings

    @property
    def findings(self) -> tuple[ConfigError, ...]:
        """The single errors, in the order of their places."""
        return self._findings


def refuse(findings: Iterable[ConfigError]) -> None:
    """Raise a ConfigError for one finding and ConfigErrors for several; return if there is none.

    The errors are sorted by their places. Those without a place come last.
    """
    nowhere = Mark("\U0010ffff", 0, 0)
    found = sorted(findings, key=lambda finding: finding.mark or nowhere)
    if len(found) == 1:
        raise found[0]
    if found:
        raise ConfigErrors(tuple(found))


AS_OWNER = "run it as the user who owns the folder, or as root"
REISSUE_BUNDLE = "get the bundle again from provisioning"


def remedy_for(error: OSError, otherwise: str) -> str:
    """Return the remedy for an unreadable file: *otherwise* unless permission is missing."""
    return AS_OWNER if isinstance(error, PermissionError) else otherwise


def one_line(text: str) -> str:
    """Return *text* with control characters as escapes: a file name may contain any character."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class LocalProtocolError(CipherfleetError):
    """A bug of ours, for example an event that the phase does not allow. Never caught."""


class RemoteProtocolError(CipherfleetError):
    """An invalid message of a neighbour: dropped and counted under *reason*, never fatal."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class WireError(RemoteProtocolError):
    """A received message with an invalid format, length, range, sender, topic or signature."""


class HeadroomExceeded(CipherfleetError):
    """A value would leave its slot; raised before anything is encrypted."""


class SensorUnavailable(CipherfleetError):
    """The sensor has no usable reading now; the daemon tries again in the next round."""


class ReadingRefused(SensorUnavailable):
    """A reading came and failed a check, *check*, of its field *field*. The text has no value."""

    def __init__(self, text: str, field: str, check: str) -> None:
        super().__init__(text)
        self.field, self.check = field, check


class StateCorrupt(CipherfleetError):
    """A state file is damaged. If both generations are, the text says how to recover."""

    exit_code = 3


class StateNotSaved(CipherfleetError):
    """The state cannot be written; raised before a message that depends on it is sent."""


class BrokerUnreachable(CipherfleetError):
    """The broker at the configured address cannot be used."""

    exit_code = 4


class AnswerUnavailable(CipherfleetError):
    """There is no published answer: the node has not settled yet, or writes none."""

    exit_code = 7


class IdentityClash(CipherfleetError):
    """Another process or device uses the identity of this node, for example from a copied card."""

    exit_code = 6


class NothingExchanged(CipherfleetError):
    """The node could not couple all its rounds, because no neighbour answers any more."""

    exit_code = 8
