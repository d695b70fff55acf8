"""Other Paillier libraries, if installed: each runs the same naive exchange as phe.

They encrypt one number per coordinate and blind their answers.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from cipherfleet_hil.measuring.exchange_scene import Library
from cipherfleet_node.keys.key_files import NodeKeys


@dataclass(frozen=True)
class OtherLibrary:
    """Another Paillier library, with the package that provides it."""

    name: str
    package: str
    connect: Callable[[NodeKeys], Library]

    @property
    def is_installed(self) -> bool:
        """True if the package is installed."""
        try:
            importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return False
        return True

    @property
    def how_to_install(self) -> str:
        """The command that installs it; it is not a dependency of cipherfleet."""
        return f"pip install {self.package}"


def connect_libraries(
    libraries: Iterable[OtherLibrary], keys: NodeKeys, console: Console
) -> list[Library]:
    """Connect the *libraries* with the same keys; those that cannot import keys use equal sizes."""
    connected = []
    for library in libraries:
        try:
            connected.append(library.connect(keys))
        except (ValueError, RuntimeError, ImportError) as error:
            console.print(f"{library.name} is not compared: {error}", style="yellow")
    return connected


class Heu:
    """SecretFlow HEU (ZPaillier): own keys; it blinds by adding an encrypted number."""

    name = "heu"

    def __init__(self, keys: NodeKeys) -> None:
        self._heu = importlib.import_module("heu.phe")
        kit = self._heu.setup(self._heu.SchemaType.ZPaillier, keys.paillier.public.bits)
        self._encrypt, self._decrypt = kit.encryptor().encrypt_raw, kit.decryptor().decrypt_raw
        self._add, self._multiply = kit.evaluator().add, kit.evaluator().mul

    def query(self, values: Sequence[int]) -> list[bytes]:
        """Encrypt and serialise each value."""
        return [self._encrypt(value).serialize() for value in values]

    def answer(self, query: Sequence[bytes], own: Sequence[int], weight: int) -> list[bytes]:
        """Return the weighted query plus the encrypted weighted own value."""
        return [
            self._add(self._multiply(self._load(c), weight), self._encrypt(x * weight)).serialize()
            for c, x in zip(query, own, strict=True)
        ]

    def open(self, answer: Sequence[bytes]) -> list[int]:
        return [self._decrypt(self._load(c)) for c in answer]

    def _load(self, data: bytes) -> Any:
        return self._heu.Ciphertext.load_from(data)


class PyPaillier:
    """pypaillier (Rust): own keys, short exponents; it processes whole lists."""

    name = "pypaillier"

    def __init__(self, keys: NodeKeys) -> None:
        self._library = importlib.import_module("paillier")
        self._public, self._secret = self._library.generate_keypair(keys.paillier.public.bits)

    def query(self, values: Sequence[int]) -> list[bytes]:
        """Encrypt the values; its ciphertexts are bytes."""
        encrypted: list[bytes] = self._library.encrypt_integers(self._public, list(values))
        return encrypted

    def answer(self, query: list[bytes], own: Sequence[int], weight: int) -> list[bytes]:
        """Return its faster product plus the encrypted weighted own value."""
        weighted = self._library.multiply_integers_public(
            self._public, query, [weight] * len(query)
        )
        shifts = self.query([entry * weight for entry in own])
        return [
            self._library.add_many(self._public, list(pair))
            for pair in zip(weighted, shifts, strict=True)
        ]

    def open(self, answer: list[bytes]) -> list[int]:
        return [int(text) for text in self._library.decrypt_many(self._secret, answer)]


def _modulus_and_order(keys: NodeKeys) -> tuple[int, int]:
    p, q = int(keys.paillier.p), int(keys.paillier.q)
    return p * q, (p - 1) * (q - 1)


class Tno:
    """tno.mpc.encryption_schemes.paillier on the same keys, with late randomisation as advised."""

    name = "tno"

    def __init__(self, keys: NodeKeys) -> None:
        library = importlib.import_module("tno.mpc.encryption_schemes.paillier")
        warnings.simplefilter("ignore", library.EncryptionSchemeWarning)
        n, order = _modulus_and_order(keys)
        self._scheme = library.Paillier(
            library.PaillierPublicKey(n, n + 1),
            library.PaillierSecretKey(order, pow(order, -1, n), n),
        )

    def query(self, values: Sequence[int]) -> list[Any]:
        """Encrypt to its objects; serialisation would need another package."""
        return [self._scheme.encrypt(value) for value in values]

    def answer(self, query: Sequence[Any], own: Sequence[int], weight: int) -> list[Any]:
        """Return the answers, randomised once."""
        answers = [(c + entry) * weight for c, entry in zip(query, own, strict=True)]
        for c in answers:
            c.randomize()
        return answers

    def open(self, answer: Sequence[Any]) -> list[int]:
        return [int(self._scheme.decrypt(c)) for c in answer]


class LightPhe:
    """lightphe on the same keys: Python integers, unsigned."""

    name = "lightphe"

    def __init__(self, keys: NodeKeys) -> None:
        library = importlib.import_module("lightphe")
        n, order = _modulus_and_order(keys)
        self._n = n
        self._scheme = library.LightPHE(
            "Paillier",
            keys={
                "public_key": {"n": n, "g": n + 1},
                "private_key": {"phi": order},
            },
        )

    def query(self, values: Sequence[int]) -> list[Any]:
        return [self._scheme.encrypt(value % self._n) for value in values]

    def answer(self, query: Sequence[Any], own: Sequence[int], weight: int) -> list[Any]:
        """Return the weighted query plus the encrypted weighted own value."""
        shifts = self.query([entry * weight for entry in own])
        return [c * weight + shift for c, shift in zip(query, shifts, strict=True)]

    def open(self, answer: Sequence[Any]) -> list[int]:
        opened = [self._scheme.decrypt(c) for c in answer]
        return [m - self._n if 2 * m > self._n else m for m in opened]


OTHER_LIBRARIES: Mapping[str, OtherLibrary] = {
    library.name: library
    for library in (
        OtherLibrary("heu", "sf-heu", Heu),
        OtherLibrary("pypaillier", "pypaillier", PyPaillier),
        OtherLibrary("tno", "tno.mpc.encryption_schemes.paillier", Tno),
        OtherLibrary("lightphe", "lightphe", LightPhe),
    )
}
PEER, QUICK_LIBRARIES = "heu", ("heu", "pypaillier")
