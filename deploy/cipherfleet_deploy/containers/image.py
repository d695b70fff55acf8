"""Build the image of nodes and brokers from this installation, also without an image registry.

The build context holds only the files that deploy/Dockerfile copies. Other files of the source
folder, such as keys and results, never get into it. An installed wheel contains the same files in
other places (pyproject.toml: force-include), so both give the same context.
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
from typing import IO

import msgspec

from cipherfleet_deploy.progress import EVERY_S
from cipherfleet_node.errors import CipherfleetError, ConfigError, one_line

from .engine import ContainerEngine
from .engine_errors import engine_errors
from .plan import IMAGE, STOP_WITHIN_S
from .results import ImageResult

SOURCE = Path(__file__).parents[3]
PACKAGE = Path(__file__).parents[1]
DOCKERFILE, WHEELHOUSE = "deploy/Dockerfile", "deploy/wheelhouse"
LOCKED = ("locked/build.txt", "locked/image.txt")  # packages to build our wheel, and of the image
DEVICE_LOCK = "locked/device.txt"  # packages that a device installs
IN_CONTEXT = (
    "pyproject.toml", "README.md", "LICENSE", *LOCKED, DEVICE_LOCK, DOCKERFILE,
    "node/cipherfleet_node", "broker/cipherfleet_broker", "provisioning/cipherfleet_provisioning",
    "analysis/cipherfleet_analysis", "deploy/cipherfleet_deploy", "deploy/devices",
    "hil_tests/cipherfleet_hil", "lab/cipherfleet_lab", "examples/intel_lab",
    "examples/average",
)  # fmt: skip
# Only a wheel has these folders inside this package. In the source they are in other places.
ADDED_IN_WHEEL = {f"deploy/{PACKAGE.name}/{each}" for each in ("devices", "examples", "source")}
OFFLINE_BASE, SUITE = "cipherfleet-base:bookworm", "bookworm"
BASE_PACKAGES = "python3,python3-venv,ca-certificates"
EMULATORS = Path("/proc/sys/fs/binfmt_misc")
OFFLINE_PIP = "--no-index --find-links=/wheels"
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
STEP_LENGTH = 100  # characters shown of a build step
MANYLINUX = ("manylinux2014", "manylinux_2_17", "manylinux_2_28")

ShowProgress = Callable[[str], None]  # shows one line of progress


@dataclass(frozen=True)
class ImageOptions:
    """The options of `fleet image`."""

    tag: str = IMAGE
    base: str | None = None  # None: the one in the Dockerfile; offline, one that is made here
    offline: bool = False
    machine: str | None = None  # a key of MACHINES; None: the processor of the engine

    @property
    def platform(self) -> str | None:
        """Docker's name of the platform."""
        return None if self.machine is None else f"linux/{self.machine}"

    @property
    def name(self) -> str:
        """The name of the image: the tag, with the processor if one is chosen."""
        return self.tag if self.machine is None else f"{self.tag}-{self.machine}"


def build_image(
    engine: ContainerEngine, options: ImageOptions, report: ShowProgress
) -> ImageResult:
    """Build the image. Return its name and size. Raises CipherfleetError."""
    with engine_errors("the engine's processor"):
        check_emulator(engine.client.version()["Arch"], options.machine)
    arguments = {} if options.base is None else {"BASE_IMAGE": options.base}
    with tempfile.TemporaryDirectory() as wheels:
        if options.offline:
            base = options.base or make_base(engine, report, options.machine)
            arguments = {"BASE_IMAGE": base, "PIP_ARGS": OFFLINE_PIP}
            download_wheels(engine, base, Path(wheels), report, options)
        report("building")
        packed = io.BytesIO(build_context(Path(wheels)))
        _build(engine, packed, DOCKERFILE, options.name, options.platform, arguments, report)
    engine.remove_superseded_images()
    return ImageResult(
        image=options.name,
        mib=round(engine.image_mib(options.name), 1),
        platform=options.platform,
        base_image=arguments.get("BASE_IMAGE", msgspec.UNSET),
        pip_args=arguments.get("PIP_ARGS", msgspec.UNSET),
    )


def check_emulator(here: str, machine: str | None) -> None:
    """Raise ConfigError if this machine, of the processor *here*, cannot run those of *machine*."""
    if machine in (None, here) or (EMULATORS / f"qemu-{MACHINES[machine]}").exists():
        return
    raise ConfigError(
        f"this machine is {here} and has no emulator of {machine}",
        remedy="install one: apt-get install binfmt-support qemu-user-static arch-test",
    )


def _build(
    engine: ContainerEngine,
    context: IO[bytes],
    dockerfile: str,
    tag: str,
    platform: str | None,
    arguments: Mapping[str, str],
    report: ShowProgress,
) -> None:
    with engine_errors("the image"):
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
        last_line = ""
        for step in steps:
            if step.get("stream", "").startswith("Step "):  # Step 3/12 : COPY ...
                report(one_line(step["stream"].strip())[:STEP_LENGTH])
            if "error" in step:
                raise CipherfleetError(
                    f"the image cannot be built: {one_line(step['error'])[:300]}, "
                    f"its last line of output: {one_line(last_line)[:300]}"
                )
            last_line = step.get("stream", "").strip() or last_line


def locate(name: str) -> Path:
    """Return where the file or folder *name* of the source is: in the source or in this wheel."""
    if (SOURCE / DOCKERFILE).is_file():
        return SOURCE / name
    last = Path(name).name
    if last.startswith("cipherfleet_"):
        return PACKAGE.parent / last
    if last == "devices":
        return PACKAGE / last
    if name.startswith("examples/"):
        return PACKAGE / name
    return PACKAGE / "source" / name


def build_context(wheels: Path) -> bytes:
    """Return the build context as a tar file, with the folder *wheels* as its wheelhouse."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in IN_CONTEXT:
            tar.add(locate(name), name, filter=_anonymise)
        tar.add(wheels, WHEELHOUSE, filter=_anonymise)
    return archive.getvalue()


def _anonymise(file: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out what a build adds, and remove the owner and the mode of this machine."""
    if "__pycache__" in file.name or file.name in ADDED_IN_WHEEL:
        return None
    file.uid = file.gid = 0
    file.uname = file.gname = ""
    file.mode = 0o755 if file.isdir() else 0o644
    return file


def make_base(
    engine: ContainerEngine,
    report: ShowProgress,
    machine: str | None = None,
    archive: Path | None = None,
) -> str:
    """Make a base image from Debian packages, unless it exists. Return its name.

    It needs a Debian mirror, but no image registry; with an *archive* of make_debian, neither.
    """
    base = OFFLINE_BASE if machine is None else f"{OFFLINE_BASE}-{machine}"
    with engine_errors("the base image"):
        if engine.client.images.list(base):
            return base
    with tempfile.TemporaryDirectory() as folder:
        file = archive or Path(folder) / "base.tar"
        if archive is None:
            make_debian(file, report, machine)
        if machine is None:
            with engine_errors("the base image"):
                name, tag = base.split(":")
                engine.client.api.import_image_from_file(str(file), repository=name, tag=tag)
        else:
            _build_base(engine, file, base, machine, report)
    return base


def make_debian(
    file: Path, report: ShowProgress, machine: str | None = None, packages: str = BASE_PACKAGES
) -> None:
    """Make *file*, a tar archive of a Debian with *packages*, separated by commas."""
    program = shutil.which("mmdebstrap")
    if program is None:
        raise ConfigError(
            "mmdebstrap is not installed, and --offline needs it to make a base image",
            remedy=(
                "install it (apt-get install mmdebstrap), or name an image that the engine has "
                "with --base"
            ),
        )
    report("making a base image from Debian packages")
    options = ["--quiet", "--variant=minbase", f"--include={packages}"]
    if machine is not None:
        options.append(f"--architecture={machine}")
    _run([program, *options, SUITE, str(file)], "making a base image", report)


def _build_base(
    engine: ContainerEngine, file: Path, base: str, machine: str, report: ShowProgress
) -> None:
    """Build the base image from its tar file.

    An import would label the image with the engine's own processor. A build labels it with the
    chosen one.
    """
    lines = f"FROM scratch\nADD {file.name} /\n".encode()
    with tempfile.TemporaryFile() as packed:
        with tarfile.open(fileobj=packed, mode="w") as tar:
            head = tarfile.TarInfo("Dockerfile")
            head.size = len(lines)
            tar.addfile(head, io.BytesIO(lines))
            tar.add(file, file.name)
        packed.seek(0)
        _build(engine, packed, "Dockerfile", base, f"linux/{machine}", {}, report)


def download_wheels(
    engine: ContainerEngine, base: str, folder: Path, report: ShowProgress, options: ImageOptions
) -> None:
    """Download every wheel that the image needs into *folder*, for the Python in *base*."""
    question = ["python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    with engine_errors(f"the Python of {base}"):
        version = engine.client.containers.run(
            base, question, remove=True, platform=options.platform
        )
        version = version.decode().strip()
        machine = options.machine or engine.client.version()["Arch"]
    report(f"downloading wheels for Python {version}")
    platforms = [f"--platform={each}_{MACHINES.get(machine, machine)}" for each in MANYLINUX]
    python = [f"--python-version={version}", "--implementation=cp"]
    command = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:"]
    locked = [f"--requirement={locate(each)}" for each in LOCKED]
    command += [*python, *platforms, f"--dest={folder}", "--require-hashes", *locked]
    _run(command, "downloading wheels", report)


def _run(command: list[str], what: str, report: ShowProgress) -> None:
    """Run *command* to its end. Report every EVERY_S seconds that it is still running."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, err = _wait_for_output(process, what, report)
        except BaseException:  # the terminal sends it Ctrl-C, too; SIGTERM comes only from here
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_WITHIN_S)
            process.kill()
            raise
    if process.returncode != 0:
        lines = [line for line in (err or out).splitlines() if line.strip()]
        last_line = one_line(lines[-1])[:300] if lines else "nothing"
        raise CipherfleetError(
            f"{' '.join(command[:4])} failed, its last line of output: {last_line}"
        )


def _wait_for_output(
    process: subprocess.Popen[str], what: str, report: ShowProgress
) -> tuple[str, str]:
    began = time.monotonic()
    while True:
        try:
            return process.communicate(timeout=EVERY_S)
        except subprocess.TimeoutExpired:
            report(f"{what}: {time.monotonic() - began:.0f} s")
