"""The command `cipherfleet-node`, which runs and checks a node on its device."""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import pwd
import resource
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import msgspec

from cipherfleet_node.settings.node_yaml import NODE_FILE, load_node_config
from cipherfleet_node.settings.sections import SAFE_KEY_BITS, NodeConfig, settled_accuracy

from . import __version__
from .errors import AS_OWNER, CipherfleetError, ConfigError, one_line

if TYPE_CHECKING:
    from cipherfleet_node.keys.key_files import NodeKeys

EXIT_OK, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 130
EXIT_NOT_YET = 7  # check-config: valid, but not enrolled; answer: the node has not settled


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    try:
        return int(options.command(options))
    except ConfigError as error:
        for finding in error.findings:
            print(f"cipherfleet-node: {finding}", file=sys.stderr)
        return error.exit_code
    except CipherfleetError as error:
        print(f"cipherfleet-node: {error}", file=sys.stderr)
        return error.exit_code
    except PermissionError as error:
        print(f"cipherfleet-node: {_no_permission(error, options.folder)}", file=sys.stderr)
        return ConfigError.exit_code
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        print(f"cipherfleet-node: {_no_descriptor(error)}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _no_permission(error: PermissionError, folder: Path) -> str:
    """Return the error text for a folder that belongs to another user."""
    place = one_line(str(error.filename or folder))
    try:
        owner = f"{folder} belongs to {_user(folder.stat().st_uid)}"
    except OSError:
        owner = "the folder belongs to another user"
    runner = _user(os.geteuid())
    return f"{place}: {error.strerror}: {owner}, this command runs as {runner}; {AS_OWNER}"


def _no_descriptor(error: OSError) -> str:
    """Return the error text for a process that may not open another file."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    problem = (error.strerror or "too many open files").lower()
    return (
        f"{problem}: this process may open {allowed}, and needs at least 24; raise LimitNOFILE of "
        "the service, or call ulimit -n 1024"
    )


def _user(number: int) -> str:
    try:
        return repr(pwd.getpwuid(number).pw_name)
    except KeyError:
        return f"user {number}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cipherfleet-node",
        description="Run and check one node of a fleet that optimises on encrypted estimates.",
        epilog="example: cipherfleet-node run /etc/cipherfleet",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, text: str, example: str, default: Path | None = None, folder: str = ""
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=text, description=text, epilog=f"example: cipherfleet-node {example}"
        )
        command.add_argument(
            "folder",
            type=Path,
            help=folder or f"the node's folder, with its {NODE_FILE}",
            nargs="?" if default else None,
            default=default,
        )
        command.set_defaults(command=globals()[f"_{name.replace('-', '_')}"])
        return command

    add("run", "Run the node until its last round or a signal.", "run node/")
    keygen = add("keygen", "Generate this node's keys.", "keygen node/ --bits 3072")
    keygen.add_argument(
        "--bits", type=int, help="key size in bits (default: crypto.key_bits, else 2048)"
    )
    keygen.add_argument("--replace", action="store_true", help="replace existing keys")
    check = add("check-config", "Check a node folder without running it.", "check-config node/")
    check.epilog = f"{check.epilog}; exit codes: 0 ready to run, 3 invalid, 7 valid, not enrolled"
    check.add_argument("--json", action="store_true", help="print one JSON object")
    show = add("show-state", "Show the saved state.", "show-state node/ --estimate --json")
    show.add_argument("--json", action="store_true", help="print one JSON object")
    show.add_argument(
        "--estimate", action="store_true", help="show the estimate as well; it is private"
    )
    answer = add("answer", "Print the agreed answer.", "answer node/ --follow --json")
    answer.epilog = f"{answer.epilog}; exit codes: 0 settled, 7 not settled, or not any more"
    answer.add_argument("--follow", action="store_true", help="print each new answer, until Ctrl-C")
    answer.add_argument("--json", action="store_true", help="print one JSON object per line")
    sense = add("sense", "Read the sensors and show their state.", "sense node/ --once --show")
    sense.epilog = f"{sense.epilog}; exit codes: 0 usable, 1 not usable, 3 settings invalid"
    sense.add_argument("--once", action="store_true", help="read once, and not until Ctrl-C")
    sense.add_argument("--show", action="store_true", help="show the values too; they are private")
    sense.add_argument(
        "--every", type=_seconds, default=5.0, help="seconds between two reads (default: 5)"
    )
    sense.add_argument("--json", action="store_true", help="print one JSON object per line")
    doctor = add("doctor", "Diagnose this node and its machine.", "doctor node/ --json")
    doctor.add_argument("--json", action="store_true", help="print one JSON object")
    here = Path()
    add("health", "Exit with 0 if the daemon is healthy.", "health node/", here)
    test = add(
        "conformance",
        "Replay scenarios against a node.",
        "conformance node/vectors/scenarios --command 'my-node --scenario'",
        here,
        "the folder of the scenarios",
    )
    test.add_argument("--command", help="the node under test; without it our own", dest="tested")
    test.add_argument("--speak", action="store_true", help="be the node under test")
    test.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _run(options: argparse.Namespace) -> int:
    from cipherfleet_node.runtime.run_node import run_node  # the other commands start faster

    _protect_process()
    stopping, signalled = threading.Event(), 0

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal signalled
        signalled = number
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    run_node(options.folder, stopping)
    return EXIT_INTERRUPTED if signalled == signal.SIGINT else EXIT_OK


def _keygen(options: argparse.Namespace) -> int:
    from cipherfleet_node.keys.key_files import KEYS_FOLDER, generate_keys, write_keys

    file = options.folder / NODE_FILE
    bits = options.bits or (
        load_node_config(options.folder).crypto.key_bits if file.exists() else SAFE_KEY_BITS
    )
    if bits < SAFE_KEY_BITS or bits % 16 or bits > 8192:
        raise ConfigError(
            f"--bits is {bits}, must be a multiple of 16 from {SAFE_KEY_BITS} to 8192"
        )
    place = options.folder / KEYS_FOLDER
    if place.exists() and any(place.iterdir()) and not options.replace:
        raise ConfigError(f"{place}: has keys already", remedy="use --replace to generate new ones")
    keys = generate_keys(bits)
    write_keys(options.folder, keys)
    print(keys.public.fingerprint)
    return EXIT_OK


def _check_config(options: argparse.Namespace) -> int:
    from cipherfleet_node.runtime.bundle import read_bundle
    from cipherfleet_node.runtime.enrolment import check_unenrolled, needs_enrolment
    from cipherfleet_node.runtime.self_test import check_exchanges

    folder, config = options.folder, load_node_config(options.folder)
    if needs_enrolment(folder, config):
        keys = check_unenrolled(folder, config)
        _print(_summary(config, keys, enrolled=False), as_json=options.json)
        print(
            f"cipherfleet-node: {folder}: is valid, but not enrolled yet; run the node, and let "
            "the operator enrol it: cipherfleet provision enroll SET",
            file=sys.stderr,
        )
        return EXIT_NOT_YET
    bundle = read_bundle(folder)
    check_exchanges(bundle.keys.paillier, bundle.neighbours_paillier)
    _print(_summary(bundle.config, bundle.keys, enrolled=True), as_json=options.json)
    return EXIT_OK


def _summary(config: NodeConfig, keys: NodeKeys | None, *, enrolled: bool) -> dict[str, object]:
    """Return the output of check-config; *keys* is None if the node has generated none yet."""
    from cipherfleet_node.core.objective import make_objective
    from cipherfleet_node.keys.key_files import seal_to_text

    return {
        "fleet": config.fleet,
        "node": config.node,
        "enrolled": enrolled,
        "neighbours": sorted(neighbour.id for neighbour in config.neighbours),
        "key_bits": config.crypto.key_bits,
        "dimension": make_objective(config.objective).dimension,
        "fingerprint": keys.public.fingerprint if keys else None,
        "seal": seal_to_text(keys.public.seal) if keys else None,
        "seals": config.seals,
        "allow_weak_keys": config.crypto.allow_weak_keys,
    }


def _show_state(options: argparse.Namespace) -> int:
    from cipherfleet_node.runtime.run_node import node_summary

    load_node_config(options.folder)
    summary = node_summary(options.folder, with_estimate=options.estimate)
    _print(summary, as_json=options.json)
    return EXIT_OK


def _answer(options: argparse.Namespace) -> int:
    from cipherfleet_node.outputs.command import answer_lines, follow
    from cipherfleet_node.outputs.file import encode, load

    if not options.folder.is_dir():
        raise ConfigError(f"{options.folder}: is no folder", remedy="name the folder of a node")
    _refuse_if_never(options.folder)
    answers = follow(options.folder) if options.follow else [load(options.folder)]
    for answer in answers:
        text = encode(answer).decode() if options.json else "\n".join(answer_lines(answer))
        print(text, flush=True)
    return EXIT_OK if answer.settled else EXIT_NOT_YET


def _refuse_if_never(folder: Path) -> None:
    """Raise ConfigError if the node in *folder* never writes a file with its answer."""
    try:
        config = load_node_config(folder)
    except (ConfigError, OSError):
        return  # a reader of the answer need not be able to read the settings
    if not config.answer.file:
        raise ConfigError("answer.file is false", remedy="set answer.file: true in fleet.yaml")
    if settled_accuracy(config) is None:
        raise ConfigError(
            "algorithm.method is article, whose rounds do not show when a node has settled: it "
            "publishes no answer",
            remedy="set algorithm.method: exact",
        )


def _seconds(text: str) -> float:
    """Return the argument of --every; argparse reports the ValueError."""
    seconds = float(text)
    if not 0.1 <= seconds <= 86400.0:
        raise argparse.ArgumentTypeError(f"is {text}, must be from 0.1 to 86400")
    return seconds


def _sense(options: argparse.Namespace) -> int:
    from cipherfleet_node.doctor.sense import Senses, result_lines

    if not options.folder.is_dir():
        raise ConfigError(f"{options.folder}: is no folder", remedy="name the folder of a node")
    senses = Senses(options.folder)
    try:
        while True:
            result = senses.read(show=options.show)
            lines = result_lines(result, show=options.show)
            text = msgspec.json.encode(result).decode() if options.json else "\n".join(lines)
            print(text, flush=True)
            if options.once:
                return EXIT_OK if result.usable else EXIT_FAILED
            time.sleep(options.every)
    finally:
        senses.close()


def _doctor(options: argparse.Namespace) -> int:
    from cipherfleet_node.doctor.folder import BUNDLE_SUBJECTS, examine
    from cipherfleet_node.findings import exit_code, to_json

    _protect_process()
    findings = []
    for finding in examine(options.folder, datetime.now(UTC)):
        findings.append(finding)
        if not options.json:
            print(finding, flush=True)
    code = exit_code(findings, BUNDLE_SUBJECTS)
    if options.json:
        print(to_json(findings, code))
    return code


def _conformance(options: argparse.Namespace) -> int:
    from cipherfleet_node.conformance.checker import check_folder, speak

    if options.speak:
        speak()
        return EXIT_OK
    result = check_folder(options.folder, options.tested)
    if options.json:
        print(msgspec.json.encode(result).decode())
        return EXIT_FAILED if result.failed else EXIT_OK
    for each in result.results:
        level = "fail" if each.problem else "ok"
        print(f"{level:4}  {each.scenario:24} section {each.section:5} {each.steps:4} steps")
        if each.problem:
            print(f"      {one_line(each.problem)}")
    print(f"{len(result.results)} scenarios, {result.failed} failed")
    return EXIT_FAILED if result.failed else EXIT_OK


def _health(options: argparse.Namespace) -> int:
    from cipherfleet_node.runtime.heartbeat import complaint, read_beat

    problem = complaint(read_beat(options.folder), time.monotonic())
    print(f"{problem}; run cipherfleet-node doctor" if problem else "healthy")
    return EXIT_FAILED if problem else EXIT_OK


def _print(summary: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary))
    else:
        for name, value in summary.items():
            print(f"{name}: {value}")


def _protect_process() -> None:
    """Prevent core files, which would contain keys, and make new files private to this user."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)


if __name__ == "__main__":
    sys.exit(main())
