"""The bases for the key of one neighbour, kept in the node's folder from one start to the next."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gmpy2 import mpz

from cipherfleet_node.core.paillier import PublicKey
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.keys.bases_file import bases_file, decode_bases, encode_bases
from cipherfleet_node.keys.key_files import KEYS_FOLDER, read_private

from .synced_files import replace_synced

log = logging.getLogger(__name__)


class KeptBases:
    """The file of the bases for *key*, the key of *neighbour*, in the node's folder *folder*.

    It only saves time: a file that cannot be used is ignored, and replaced by the next `save`.
    """

    def __init__(
        self, folder: Path, neighbour: str, key: PublicKey, identity: Ed25519PrivateKey
    ) -> None:
        self._file = bases_file(folder / KEYS_FOLDER, neighbour)
        self._key, self._identity = key, identity

    def load(self) -> list[mpz] | None:
        """Return the bases, or None if there is no file of this node for this key."""
        if not self._file.exists():
            return None
        try:
            return decode_bases(read_private(self._file), self._key, self._identity)
        except (ConfigError, ValueError) as error:
            log.warning("%s: is not used, and is replaced later: %s", self._file, error)
            return None

    def save(self, bases: Sequence[mpz]) -> None:
        """Replace the file durably; if the disk refuses, the next start computes new bases."""
        try:
            self._file.parent.mkdir(mode=0o700, exist_ok=True)
            replace_synced(self._file, encode_bases(bases, self._key, self._identity))
        except OSError as error:
            log.warning("%s: cannot be written: %s", self._file, error.strerror)
