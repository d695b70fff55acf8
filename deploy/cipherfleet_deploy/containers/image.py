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
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cipherfleet_deploy.progress import EVERY_S
from cipherfleet_node.errors import CipherfleetError, ConfigError, one_line

from .engine import Engine, told
from .plan import IMAGE, STOP_WITHIN_S

SOURCE = Path(__file__).parents[3]
DOCKERFILE, WHEELHOUSE = "deploy/Dockerfile", "deploy/wheelhouse"
LOCKED = ("locked/build.txt", "locked/image.txt")  # what builds our wheel, what the image holds
IN_CONTEXT = (
    "pyproject.toml", "README.md", "LICENSE", *LOCKED, DOCKERFILE, "node/cipherfleet_node",
    "broker/cipherfleet_broker", "provisioning/cipherfleet_provisioning",
    "deploy/cipherfleet_deploy", "deploy/devices",
    "hil_tests/cipherfleet_hil", "lab/cipherfleet_lab", "examples",
)  # fmt: skip
OFFLINE_BASE, SUITE = "cipherfleet-base:bookworm", "bookworm"
BASE_PACKAGES = "python3,python3-venv,ca-certificates"
EMULATORS = Path("/proc/sys/fs/binfmt_misc")
OFFLINE_PIP = "--no-index --find-links=/wheels"
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
STEP_LENGTH = 100
MANYLINUX = ("manylinux2014", "manylinux_2_17", "manylinux_2_28")

Tell = Callable[[str], None]


@dataclass(frozen=True)
class ImageOptions:
    """The flags of `fleet image`."""

    tag: str = IMAGE
    base: str | None = None  # None: the Dockerfile's own, or offline one made here
    offline: bool = False
    machine: str | None = None  # a key of MACHINES; None: that of the engine

    @property
    def platform(self) -> str | None:
        """As Docker calls it."""
        return None if self.machine is None else f"linux/{self.machine}"

    @property
    def name(self) -> str:
        """Another machine's image is another one."""
        return self.tag if self.machine is None else f"{self.tag}-{self.machine}"


def build_image(engine: Engine, options: ImageOptions, tell: Tell) -> dict[str, Any]:
    """Build the image; its name and size. Raises CipherfleetError."""
    if not (SOURCE / DOCKERFILE).is_file():
        raise ConfigError(
            f"{SOURCE / DOCKERFILE}: is not there; an image is built from the project's source "
            "(pip install -e), not from an installed wheel"
        )
    with told("the engine's machine"):
        check_emulator(engine.client.version()["Arch"], options.machine)
    arguments = {} if options.base is None else {"BASE_IMAGE": options.base}
    with tempfile.TemporaryDirectory() as wheels:
        if options.offline:
            base = options.base or make_base(engine, tell, options.machine)
            arguments = {"BASE_IMAGE": base, "PIP_ARGS": OFFLINE_PIP}
            download_wheels(engine, base, Path(wheels), tell, options)
        tell("building")
        packed = io.BytesIO(context(Path(wheels)))
        _build(engine, packed, DOCKERFILE, options.name, options.platform, arguments, tell)
    engine.remove_superseded_images()
    size = round(engine.image_mib(options.name), 1)
    return {"image": options.name, "mib": size, "platform": options.platform, **arguments}


def check_emulator(here: str, machine: str | None) -> None:
    """Raise ConfigError if programs of *machine* do not run on one that is *here*."""
    if machine in (None, here) or (EMULATORS / f"qemu-{MACHINES[machine]}").exists():
        return
    raise ConfigError(
        f"this machine is {here} and has no emulator of {machine}: apt-get install "
        "binfmt-support qemu-user-static arch-test"
    )


def _build(
    engine: Engine,
    context: IO[bytes],
    dockerfile: str,
    tag: str,
    platform: str | None,
    arguments: Mapping[str, str],
    tell: Tell,
) -> None:
    with told("the image"):
        steps = engine.client.api.build(
            fileobj=context,
            custom_context=True,
            dockerfile=dockerfile,
            tag=tag,
            platform=platform,
            buildargs=dict(arguments),
            rm=True,
            forcerm=True,
            decode=True,
        )
        said = ""
        for step in steps:
            if step.get("stream", "").startswith("Step "):  # Step 3/12 : COPY ...
                tell(one_line(step["stream"].strip())[:STEP_LENGTH])
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


def make_base(engine: Engine, tell: Tell, machine: str | None = None) -> str:
    """A base image of Debian's packages, where no registry can be reached; made once."""
    base = OFFLINE_BASE if machine is None else f"{OFFLINE_BASE}-{machine}"
    with told("the base image"):
        if engine.client.images.list(base):
            return base
    program = shutil.which("mmdebstrap")
    if program is None:
        raise ConfigError(
            "an offline base is made with mmdebstrap, which is missing: apt-get install "
            "mmdebstrap, or name a base that the engine has with --base"
        )
    tell(f"making {base} of Debian's packages")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "base.tar"
        options = ["--quiet", "--variant=minbase", f"--include={BASE_PACKAGES}"]
        if machine is not None:
            options.append(f"--architecture={machine}")
        _run([program, *options, SUITE, str(file)], f"making {base}", tell)
        if machine is None:
            with told("the base image"):
                name, tag = base.split(":")
                engine.client.api.import_image_from_file(str(file), repository=name, tag=tag)
        else:
            _build_base(engine, file, base, machine, tell)
    return base


def _build_base(engine: Engine, file: Path, base: str, machine: str, tell: Tell) -> None:
    """An import would be labelled with the engine's own machine; a build of nothing is not."""
    lines = f"FROM scratch\nADD {file.name} /\n".encode()
    with tempfile.TemporaryFile() as packed:
        with tarfile.open(fileobj=packed, mode="w") as tar:
            head = tarfile.TarInfo("Dockerfile")
            head.size = len(lines)
            tar.addfile(head, io.BytesIO(lines))
            tar.add(file, file.name)
        packed.seek(0)
        _build(engine, packed, "Dockerfile", base, f"linux/{machine}", {}, tell)


def download_wheels(
    engine: Engine, base: str, folder: Path, tell: Tell, options: ImageOptions
) -> None:
    """Into *folder* every wheel that the image needs, for the Python of *base*."""
    question = ["python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    with told(f"the Python of {base}"):
        version = engine.client.containers.run(
            base, question, remove=True, platform=options.platform
        )
        version = version.decode().strip()
        machine = options.machine or engine.client.version()["Arch"]
    tell(f"downloading wheels for Python {version}")
    platforms = [f"--platform={each}_{MACHINES.get(machine, machine)}" for each in MANYLINUX]
    python = [f"--python-version={version}", "--implementation=cp"]
    command = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:"]
    locked = [f"--requirement={SOURCE / each}" for each in LOCKED]
    words = [*command, *python, *platforms, f"--dest={folder}", "--require-hashes", *locked]
    _run(words, "downloading wheels", tell)


def _run(command: list[str], what: str, tell: Tell) -> None:
    """Run *command* to its end, and say every while that it still runs."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, err = _awaited(process, what, tell)
        except BaseException:  # it gets Ctrl-C from the terminal, too; SIGTERM only from us
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_WITHIN_S)
            process.kill()
            raise
    if process.returncode != 0:
        lines = [line for line in (err or out).splitlines() if line.strip()]
        words = one_line(lines[-1])[:300] if lines else "nothing"
        raise CipherfleetError(f"{' '.join(command[:4])} failed, its last words: {words}")


def _awaited(process: subprocess.Popen[str], what: str, tell: Tell) -> tuple[str, str]:
    began = time.monotonic()
    while True:
        try:
            return process.communicate(timeout=EVERY_S)
        except subprocess.TimeoutExpired:
            tell(f"{what}: {time.monotonic() - began:.0f} s")
