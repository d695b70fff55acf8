"""What runs on a target: its lease, the work of whoever holds it, and the end of both.

A program of the standard library alone, for any Python from 3.8: `keeper.py COMMAND JSON` prints a
line of JSON. `take` leaves a process behind that starts the work, is the parent of all of it, and
lets go of everything when the lease ends, however that comes: processes, folder, lease.

The lease is a file in the temporary folder, changed under a lock of the kernel. Its times are of
CLOCK_BOOTTIME and hold for one boot only: setting the target's clock, which boards without one of
their own do minutes after the start, neither ends nor prolongs it.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator  # noqa: UP035  # before Python 3.9, too

LEASE_FILE = "cipherfleet-bench.lease"
FOLDER_PREFIX = "cipherfleet-bench-"
MARK = "CIPHERFLEET_LEASE"  # in the environment of every process that we started
SOURCE_FILE, DOORBELL, PID_FILE = "keeper.py", "doorbell", "keeper.pid"
LOOK_EVERY_S = 2.0
ENDS_WITHIN_S = 3.0  # after SIGTERM, before SIGKILL
STARTS_WITHIN_S = 20.0
PAGE = 1 << 20
# The shell keeps the exit code; it is smaller than another Python.
KEEP_CODE = '"$@" >out 2>err </dev/null; echo $? >code.new; mv code.new code'

Lease = Dict[str, Any]  # noqa: UP006  # {"holder", "nonce", "until", "boot", "folder", "pid"}; until in boottime seconds


def boot_id() -> str:
    """Tells one start of the machine from the next."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def clock() -> float:
    """Seconds since the machine was started, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


# -- the lease -----------------------------------------------------------------------------------


def lease_file() -> Path:
    """Where it is."""
    return Path(tempfile.gettempdir()) / LEASE_FILE


@contextlib.contextmanager
def locked() -> Iterator[Any]:
    """The lease's file, locked; nobody else reads or writes it meanwhile."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        with os.fdopen(os.open(lease_file(), flags, 0o644), "r+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            if is_still_there(stream):
                yield stream
                return


def is_still_there(stream: Any) -> bool:
    """Whether the lease's file is the one that is open: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), lease_file().stat())
    except FileNotFoundError:
        return False


def read_lease(stream: Any) -> Lease | None:
    """What the file says, None for nothing or nonsense."""
    stream.seek(0)
    try:
        lease = json.loads(stream.read())
    except ValueError:
        return None
    keys = {"holder", "nonce", "until", "boot", "folder", "pid"}
    return lease if isinstance(lease, dict) and keys <= set(lease) else None


def write_lease(stream: Any, lease: Lease) -> None:
    """Put *lease* in place of what the file said."""
    stream.seek(0)
    stream.truncate()
    stream.write(json.dumps(lease) + "\n")
    stream.flush()
    os.fchmod(stream.fileno(), 0o644)  # all may see who has it


def holds(lease: Lease | None) -> bool:
    """Whether the time of *lease* is not over."""
    return lease is not None and lease["boot"] == boot_id() and lease["until"] > clock()


def look(nonce: str) -> Lease | None:
    """The lease under *nonce*, if it holds."""
    with contextlib.suppress(FileNotFoundError), lease_file().open() as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        lease = read_lease(stream)
        if lease is not None and lease["nonce"] == nonce and holds(lease):
            return lease
    return None


# -- commands ------------------------------------------------------------------------------------


def take(told: Any) -> Any:
    """Take the lease for told["seconds"], or say who has it. A repetition changes nothing."""
    try:
        with locked() as stream:
            lease = read_lease(stream)
            if lease is not None and not holds(lease):
                let_go(lease["nonce"], lease["folder"])
                lease = None
            if lease is not None and lease["nonce"] != told["nonce"]:
                return {"held": held_by(lease)}
            if lease is None:
                lease = new_lease(told)
            lease["until"] = clock() + told["seconds"]
            write_lease(stream, lease)
    except PermissionError:
        return {"held": held_by_another_user()}
    return {"taken": lease, "pid": keeper_of(lease, told["source"]), "machine": machine()}


def new_lease(told: Any) -> Lease:
    """A lease with a folder of its own."""
    folder = tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=work_place())
    return {
        "holder": told["holder"],
        "nonce": told["nonce"],
        "until": 0.0,
        "boot": boot_id(),
        "folder": folder,
        "pid": 0,
    }


def work_place() -> str | None:
    """Where the folder goes: /tmp is memory on many boards, and memory is what is measured."""
    if "TMPDIR" in os.environ or not os.access("/var/tmp", os.W_OK | os.X_OK):  # noqa: S108
        return None
    return "/var/tmp"  # noqa: S108


def held_by(lease: Lease) -> Any:
    """Who has the lease, for how long, and until when by the target's clock."""
    left = lease["until"] - clock() if lease["boot"] == boot_id() else 0.0
    until = time.strftime("%H:%M:%S", time.gmtime(time.time() + left))
    return {"holder": lease["holder"], "seconds": round(left, 1), "until": until}


def held_by_another_user() -> Any:
    """As much as can be said of a lease that only its owner may change."""
    with contextlib.suppress(OSError), lease_file().open() as stream:
        lease = read_lease(stream)
        if lease is not None:
            return {**held_by(lease), "file": str(lease_file())}
    return {"holder": "another user", "seconds": 0.0, "until": "", "file": str(lease_file())}


def machine() -> Any:
    """What decides which programs run here."""
    return {
        "python": list(sys.version_info[:3]),
        "executable": sys.executable,
        "architecture": platform.machine(),
        "libc": list(platform.libc_ver()),
        "boot": boot_id(),
        "user": os.geteuid(),
        "cpus": os.cpu_count(),
    }


def renew(told: Any) -> Any:
    """Prolong the lease, if it is still held."""
    with locked() as stream:
        lease = read_lease(stream)
        if lease is None or lease["nonce"] != told["nonce"] or not holds(lease):
            if lease is None:
                lease_file().unlink()  # made by looking
            return {"lost": True}
        lease["until"] = clock() + told["seconds"]
        write_lease(stream, lease)
    return {"renewed": True}


def release(told: Any) -> Any:
    """End all work and remove everything. A repetition changes nothing."""
    with locked() as stream:
        lease = read_lease(stream)
        if lease is not None and lease["nonce"] == told["nonce"]:
            let_go(lease["nonce"], lease["folder"])
            lease = None
        if lease is None:
            lease_file().unlink()
    return {"released": True}


def start(told: Any) -> Any:
    """Start a job, unless it was started before; its process id."""
    lease = must_hold(told["nonce"])
    place = job_folder(lease, told["job"])
    if not place.is_dir():
        building = Path(tempfile.mkdtemp(dir=place.parent))
        wanted = {"argv": told["argv"], "env": told["env"]}
        (building / "request").write_text(json.dumps(wanted))
        building.rename(place)
        with Path(lease["folder"], DOORBELL).open("w") as bell:
            bell.write(told["job"] + "\n")
    deadline = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline:
        pid = number_in(place / "pid")
        if pid is not None:
            return {"pid": pid}
        time.sleep(0.01)
    return {"error": "the keeper on the target does not start the job"}


def wait(told: Any) -> Any:
    """The exit codes of jobs, once all have ended or told["seconds"] are over.

    `idle_s`: how long ago a file that told["watch"] names was last written, the least of all.
    """
    lease = must_hold(told["nonce"])
    deadline = time.monotonic() + told["seconds"]
    while True:
        codes = {job: number_in(job_folder(lease, job) / "code") for job in told["jobs"]}
        if None not in codes.values() or time.monotonic() >= deadline:
            return {"codes": codes, "idle_s": idle_s(lease, told["watch"])}
        time.sleep(0.2)  # a waking process disturbs what is measured


def idle_s(lease: Lease, watched: Any) -> float | None:
    """Seconds since one of the files *watched* was written; None where there is none."""
    ages = []
    for name in watched:
        with contextlib.suppress(FileNotFoundError):
            ages.append(time.time() - Path(lease["folder"], name).stat().st_mtime)
    return min(ages) if ages else None


def put(told: Any) -> Any:
    """Unpack a tar file from standard input into the folder told["name"]."""
    lease = must_hold(told["nonce"])
    place = Path(lease["folder"], told["name"])
    fresh = place.with_name(place.name + ".fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    data = io.BytesIO(sys.stdin.buffer.read())
    with tarfile.open(fileobj=data) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(fresh, filter="data")
        else:
            tar.extractall(fresh)  # noqa: S202  # of our own making
    shutil.rmtree(place, ignore_errors=True)
    fresh.rename(place)
    return {"put": told["name"]}


def get(told: Any) -> None:
    """A file's bytes from told["offset"] on, a page at most, in place of JSON."""
    lease = must_hold(told["nonce"])
    with Path(lease["folder"], told["name"]).open("rb") as stream:
        stream.seek(told["offset"])
        sys.stdout.buffer.write(stream.read(PAGE))


def must_hold(nonce: str) -> Lease:
    """The lease under *nonce*; ends the program where it is lost."""
    lease = look(nonce)
    if lease is None:
        print(json.dumps({"lost": True}))  # noqa: T201
        sys.exit(0)
    return lease


def job_folder(lease: Lease, job: str) -> Path:
    """Where a job's output goes."""
    return Path(lease["folder"], "jobs", job)


def number_in(file: Path) -> int | None:
    """The whole number in *file*, None where there is none yet."""
    try:
        return int(file.read_text())
    except (FileNotFoundError, ValueError):
        return None


# -- the process that stays ----------------------------------------------------------------------


def keeper_of(lease: Lease, source: str) -> int:
    """The process id of the keeper of *lease*, started if there is none."""
    folder = Path(lease["folder"])
    file = folder / PID_FILE
    if number_in(file) is None:
        (folder / "jobs").mkdir(exist_ok=True)
        program = folder / SOURCE_FILE
        program.write_text(source)
        with contextlib.suppress(FileExistsError):
            os.mkfifo(folder / DOORBELL, 0o600)
        subprocess.Popen(
            [sys.executable, "-I", "-S", str(program), "keep", json.dumps(lease)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, MARK: lease["nonce"]},
            cwd="/",
            start_new_session=True,  # the end of the connection is not its end
        )
    deadline = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline:
        pid = number_in(file)
        if pid is not None:
            return pid
        time.sleep(0.01)
    return 0


def keep(lease: Lease) -> None:
    """Start what is asked for, until the lease ends; then let go of everything."""
    signal.signal(signal.SIGCHLD, reap)
    folder, nonce = lease["folder"], lease["nonce"]
    bell = os.open(Path(folder, DOORBELL), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    write_number(Path(folder, PID_FILE), os.getpid())
    while True:
        held = look(nonce)
        if held is None:
            break
        left = max(0.0, held["until"] - clock())
        ready, _, _ = select.select([bell], [], [], min(left + 0.01, LOOK_EVERY_S))
        if ready:
            for job in os.read(bell, 4096).decode().split():
                run_job(job_folder(lease, job), nonce)
    with contextlib.suppress(OSError), locked() as stream:
        found = read_lease(stream)
        if found is None or found["nonce"] == nonce:
            let_go(nonce, folder)
            lease_file().unlink()
            return
    let_go(nonce, folder)


def run_job(place: Path, nonce: str) -> None:
    """Start the job whose folder is *place*."""
    told = json.loads((place / "request").read_text())
    process = subprocess.Popen(
        ["/bin/sh", "-c", KEEP_CODE, "sh", *told["argv"]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **told["env"], MARK: nonce},
        cwd=place,
        start_new_session=True,
    )
    process.returncode = 0  # `reap` does it
    write_number(place / "pid", process.pid)


def reap(_number: int, _frame: Any) -> None:
    """Take the exit codes of children, so that their CPU time counts as ours."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def write_number(file: Path, number: int) -> None:
    """Write *file* at once."""
    fresh = file.with_suffix(".new")
    fresh.write_text(str(number))
    fresh.rename(file)


# -- letting go ----------------------------------------------------------------------------------


def let_go(nonce: str, folder: str) -> None:
    """End every process of the lease but this one, and remove its folder."""
    deadline = time.monotonic() + ENDS_WITHIN_S
    while marked := processes_of(nonce):
        number = signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL
        for pid in marked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(0.05)
    if Path(folder).name.startswith(FOLDER_PREFIX):  # a file says what is to be removed
        shutil.rmtree(folder, ignore_errors=True)


def processes_of(nonce: str) -> list[int]:
    """Processes of ours that carry the lease's mark, this one left out."""
    mark = (MARK + "=" + nonce).encode()
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and int(place.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in (place / "environ").read_bytes().split(b"\0"):
                    found.append(int(place.name))
    return found


COMMANDS = {
    "take": take,
    "renew": renew,
    "release": release,
    "start": start,
    "wait": wait,
    "put": put,
    "get": get,
    "keep": keep,
}


if __name__ == "__main__":
    os.umask(0o077)
    told = COMMANDS[sys.argv[1]](json.loads(sys.argv[2]))
    if told is not None:
        print(json.dumps(told))  # noqa: T201
