"""`cipherfleet provision broker`: install the broker's files of a set where mosquitto runs.

The files go where Debian's mosquitto reads them. A second run changes nothing. With a prefix (the
variable DESTDIR) the files are installed under it, and no service is touched: for tests, and for
the image of a machine.
"""

from __future__ import annotations

import os
import pwd
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console

from cipherfleet_broker.health import check_broker
from cipherfleet_broker.mosquitto import (
    ACCESS_FILE,
    PLUGIN,
    PLUGIN_FOLDERS,
    Version,
    find_mosquitto,
    find_plugin,
    mosquitto_version,
)
from cipherfleet_node.errors import BrokerUnreachable, CipherfleetError, ConfigError
from cipherfleet_provisioning.broker_files import BROKER_FOLDER, INSTALLED, make_security
from cipherfleet_provisioning.ledger import Ledger, read_ledger
from cipherfleet_provisioning.sets import CURRENT, find_current_set, lock_set

from .progress import print_line

USER = SERVICE = "mosquitto"
MAIN = Path("/etc/mosquitto/mosquitto.conf")
ADDED = Path("/etc/mosquitto/conf.d")
CONFIGURATION = "cipherfleet.conf"  # in ADDED
FOR_2_0, FOR_2_1 = "mosquitto-2.0.conf", "mosquitto-2.1.conf"
NOT_READ = {FOR_2_0, FOR_2_1, "nats-server.conf"}  # mosquitto reads CONFIGURATION instead
SYSTEMD = Path("/run/systemd/system")  # exists where systemd runs
ANSWER_WITHIN_S = 15.0  # of a service that was just started
# Set by another file, these mean that the mosquitto serves other clients, too.
OF_OTHER_CLIENTS = {
    "acl_file", "allow_anonymous", "auth_plugin", "bind_address", "global_plugin", "listener",
    "password_file", "per_listener_settings", "plugin", "port", "psk_file",
}  # fmt: skip

ServiceAction = Literal["restarted", "reloaded", "checked", "none"]


class BrokerResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `provision broker`."""

    fleet: str
    host: str
    port: int
    tls: bool
    files: str  # the folder of this broker's files in the set
    program: str | None  # such as "mosquitto 2.0.11"; None without --install
    changed: list[str]  # the files that were written
    service: ServiceAction  # what was done with the service of the system
    answers: bool | None  # to the health check; None: it was not asked
    problem: str  # why the broker does not answer; empty if it does
    commands: list[str]  # what is left to do, on another machine or on this one


@dataclass(frozen=True)
class BrokerFiles:
    """The files of one broker of a set, by name."""

    ledger: Ledger
    host: str
    folder: Path
    content: dict[str, bytes]


def read_broker_files(home: Path, host: str | None) -> BrokerFiles:
    """Read the files of the broker at *host*, which may be left out where the set has only one.

    Raises ConfigError.
    """
    with lock_set(home):
        place = find_current_set(home)
        assert place is not None  # the lock has checked it
        ledger = read_ledger(place)
        chosen = _choose_host(ledger, host)
        within = Path(BROKER_FOLDER, chosen if ledger.cluster else "")
        files = sorted(file for file in (place / within).iterdir() if file.is_file())
        content = {file.name: file.read_bytes() for file in files}
    return BrokerFiles(ledger, chosen, home / CURRENT / within, content)


def _choose_host(ledger: Ledger, host: str | None) -> str:
    hosts = ledger.cluster or [ledger.broker.host]
    if host is None and len(hosts) == 1:
        return hosts[0]
    if host in hosts:
        return host
    found = "is left out" if host is None else f"is {host!r}"
    raise ConfigError(f"--host {found}, must be one of {', '.join(hosts)}")


# -- without --install --------------------------------------------------------------------------


def describe_setup(home: Path, host: str | None) -> BrokerResult:
    """Return where the broker's files are, and how to install them on another machine."""
    files = read_broker_files(home, host)
    return _result(files, commands=_remote_commands(files))


def _remote_commands(files: BrokerFiles) -> list[str]:
    """Return commands for a workstation that install the files over SSH, with Debian's tools."""
    folder = shlex.quote(str(files.folder))
    login = shlex.quote(f"root@{files.host}")
    unpack = (
        f"install -d -o {USER} -g {USER} -m 700 {INSTALLED} && "
        f"tar -C {INSTALLED} --no-same-owner -x && chown -R {USER}:{USER} {INSTALLED}"
    )
    activate = (
        f"install -m 644 {INSTALLED}/{FOR_2_0} {ADDED}/{CONFIGURATION} && "
        f"systemctl restart {SERVICE}"
    )
    return [
        f"ssh {login} apt-get install -y mosquitto",
        f"tar -C {folder} -c . | ssh {login} '{unpack}'",
        f"ssh {login} '{activate}'",
    ]


# -- with --install -----------------------------------------------------------------------------


def install(home: Path, host: str | None, prefix: str = "") -> BrokerResult:
    """Install the broker's files on this machine, let mosquitto read them, and check it.

    Raises ConfigError before anything is changed, and CipherfleetError if the service fails.
    """
    files = read_broker_files(home, host)
    _check_permission(prefix)
    version, owner = _installed_version(), _owner(prefix)
    _check_configuration(Path(prefix + str(MAIN)), Path(prefix + str(ADDED)), files.folder)
    changed = _put_files(files, _configuration(files, version), owner, prefix)
    program = f"mosquitto {'.'.join(map(str, version))}"
    if prefix:
        return _result(files, program=program, changed=changed)
    is_managed = SYSTEMD.is_dir()
    service = _act_on_service(changed) if is_managed else "none"
    problem = _find_problem(files, ANSWER_WITHIN_S if is_managed else 0.0)
    return _result(
        files,
        program=program,
        changed=changed,
        service=service,
        answers=not problem,
        problem=problem,
        commands=[] if is_managed else _start_commands(changed, is_running=not problem),
    )


def _check_permission(prefix: str) -> None:
    if not prefix and os.geteuid() != 0:
        again = shlex.join(["sudo", str(Path(sys.argv[0]).absolute()), *sys.argv[1:]])
        raise ConfigError("--install must run as root, on the broker's machine", remedy=again)


def _installed_version() -> Version:
    try:
        binary = find_mosquitto()
    except ConfigError:
        raise ConfigError(
            "mosquitto is not installed on this machine",
            remedy="install it (Debian: apt-get install mosquitto), or leave --install out to see "
            "how the files get to another machine",
        ) from None
    return mosquitto_version(binary)


def _owner(prefix: str) -> tuple[int, int] | None:
    """Return the ids of the user and group of mosquitto; None under a prefix without root."""
    if prefix and os.geteuid() != 0:
        return None
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        raise ConfigError(
            f"this machine has no user {USER!r}, as which mosquitto is to run",
            remedy=f"add it: useradd --system {USER}",
        ) from None
    return user.pw_uid, user.pw_gid


def _check_configuration(main: Path, added: Path, files: Path) -> None:
    """Raise ConfigError if mosquitto would not read our file, or serves other clients already."""
    if not main.is_file():
        if str(main) != str(MAIN):
            return  # a prefix need not have it
        raise ConfigError(
            f"{main}: does not exist", remedy=f"write it, with the line: include_dir {ADDED}"
        )
    if not any(_is_include(line) for line in main.read_text(errors="replace").splitlines()):
        raise ConfigError(
            f"{main}: does not include {ADDED}", remedy=f"add the line: include_dir {ADDED}"
        )
    others = [file for file in sorted(added.glob("*.conf")) if file.name != CONFIGURATION]
    for file in (main, *others):
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
            word = line.split(maxsplit=1)[0] if line.strip() else ""
            if word in OF_OTHER_CLIENTS:
                raise ConfigError(
                    f"{file}:{number}: sets {word}, so this mosquitto serves other clients "
                    "already, and the fleet's access rules would apply to them, too",
                    remedy="use another machine; or run a second mosquitto with "
                    f"{files / FOR_2_0}, whose first lines say what to add",
                )


def _is_include(line: str) -> bool:
    words = line.split()
    return len(words) == 2 and words[0] == "include_dir" and Path(words[1]) == ADDED


def _configuration(files: BrokerFiles, version: Version) -> bytes:
    """Return the configuration for *version*; from 2.1 on with the plugin, if it is installed."""
    plugin = find_plugin() if version >= (2, 1, 0) else None
    if plugin is None:
        return files.content[FOR_2_0]
    expected = str(Path(PLUGIN_FOLDERS[0]) / PLUGIN)
    return files.content[FOR_2_1].replace(expected.encode(), str(plugin).encode())


def _put_files(
    files: BrokerFiles, configuration: bytes, owner: tuple[int, int] | None, prefix: str
) -> list[str]:
    """Write the files that differ, the configuration last. Return the paths of these files."""
    folder, added = Path(f"{prefix}{INSTALLED}"), Path(f"{prefix}{ADDED}")
    _make_folder(folder, 0o700)
    if owner is not None:
        os.chown(folder, *owner)
    written = [
        str(folder / name)
        for name, data in files.content.items()
        if _put(folder / name, data, 0o600, owner)
    ]
    if not added.is_dir():
        _make_folder(added, 0o755)
    root = (0, 0) if owner is not None else None
    if _put(added / CONFIGURATION, configuration, 0o644, root):
        written.append(str(added / CONFIGURATION))
    return written


def _make_folder(folder: Path, mode: int) -> None:
    for parent in reversed([each for each in folder.parents if not each.exists()]):
        parent.mkdir(mode=0o755)
    folder.mkdir(mode=mode, exist_ok=True)
    folder.chmod(mode)


def _put(file: Path, data: bytes, mode: int, owner: tuple[int, int] | None) -> bool:
    """Replace *file* atomically. Return False if content, mode and owner are right already."""
    if file.is_file() and not file.is_symlink():
        found = file.stat()
        is_owned = owner is None or (found.st_uid, found.st_gid) == owner
        if is_owned and found.st_mode & 0o777 == mode and file.read_bytes() == data:
            return False
    fresh = file.with_name(f".{file.name}.fresh")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        os.fchmod(descriptor, mode)
        if owner is not None:
            os.fchown(descriptor, *owner)
        stream.flush()
        os.fsync(descriptor)
    fresh.replace(file)
    return True


# -- the service --------------------------------------------------------------------------------


def _act_on_service(changed: list[str]) -> ServiceAction:
    """Let mosquitto read what has changed. New rules alone do not end any connection."""
    read = _names_that_are_read(changed)
    if not read:
        _systemctl("start")
        return "checked"
    if read == {ACCESS_FILE}:
        _systemctl("reload-or-restart")
        return "reloaded"
    _systemctl("restart")
    return "restarted"


def _names_that_are_read(changed: list[str]) -> set[str]:
    return {Path(name).name for name in changed} - NOT_READ


def _systemctl(verb: str) -> None:
    done = subprocess.run(
        ["systemctl", verb, SERVICE],  # noqa: S607  # in PATH wherever systemd runs
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["nothing"]
        raise CipherfleetError(
            f"systemctl {verb} {SERVICE} failed, its last line: {lines[-1]}",
            remedy=f"journalctl -u {SERVICE} and /var/log/mosquitto/mosquitto.log say why",
        )


def _start_commands(changed: list[str], *, is_running: bool) -> list[str]:
    """Return how mosquitto gets its files where no systemd runs."""
    start, running = f"mosquitto -d -c {MAIN}", "$(pidof mosquitto)"
    read = _names_that_are_read(changed)
    if not is_running:
        return [start]
    if read == {ACCESS_FILE}:
        return [f"kill -HUP {running}"]
    return [f"kill {running}", start] if read else []


def _find_problem(files: BrokerFiles, within_s: float) -> str:
    """Return why the broker does not answer the health check *within_s*; empty if it does."""
    broker = files.ledger.broker
    context = None
    if broker.tls:
        context = make_security(files.folder, files.ledger).context()
    ends = time.monotonic() + within_s
    while True:
        try:
            check_broker(files.host, broker.port, context=context)
        except BrokerUnreachable as error:
            if time.monotonic() >= ends:
                return str(error)
            time.sleep(0.2)
        else:
            return ""


# -- the result ---------------------------------------------------------------------------------


def _result(
    files: BrokerFiles,
    *,
    program: str | None = None,
    changed: list[str] | None = None,
    service: ServiceAction = "none",
    answers: bool | None = None,
    problem: str = "",
    commands: list[str] | None = None,
) -> BrokerResult:
    broker = files.ledger.broker
    return BrokerResult(
        fleet=files.ledger.fleet,
        host=files.host,
        port=broker.port,
        tls=broker.tls,
        files=str(files.folder),
        program=program,
        changed=changed or [],
        service=service,
        answers=answers,
        problem=problem,
        commands=commands or [],
    )


def show(result: BrokerResult, console: Console) -> None:
    """Print *result* line by line."""
    for line in _lines(result):
        print_line(console, line)


def _lines(result: BrokerResult) -> Iterator[str]:
    security = "with TLS" if result.tls else "without TLS"
    yield f"broker of {result.fleet}: {result.host}:{result.port}, {security}"
    if result.program is None:
        yield f"its files: {result.files}"
        yield "on a machine with this set: repeat the command there as root, with --install"
        yield "on another machine with Debian and an SSH login of root:"
        yield from (f"  {command}" for command in result.commands)
        return
    yield result.program
    yield from (f"wrote {file}" for file in result.changed)
    if not result.changed:
        yield "nothing has changed"
    if result.service in ("restarted", "reloaded"):
        yield f"{result.service} the service {SERVICE}"
    if result.answers:
        yield f"the broker answers at {result.host}:{result.port}"
    elif result.answers is False:
        yield f"the broker does not answer: {result.problem}"
    if result.commands:
        yield "no systemd runs here; let mosquitto read its configuration:"
        yield from (f"  {command}" for command in result.commands)
