"""The lease agent of a measurement target: it holds the lease, runs jobs, and cleans up at the end.

The file is sent to the target and runs there alone: it imports only the standard library and
supports Python 3.8 and newer. `lease_agent.py COMMAND JSON` prints one line of JSON. The command
`take` starts a process that stays on the target (`serve`). This process starts every job and is
their parent. When the lease ends, for any reason, it kills the jobs and removes the folder and the
lease.

The lease is a file in the temporary folder; it is changed under a file lock. Its times are
CLOCK_BOOTTIME and are valid for one boot only. So setting the wall clock neither ends nor extends
a lease; boards without a real-time clock set it minutes after they have started.
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
from typing import Any, Dict, Iterator  # noqa: UP035  # Python 3.8 needs these

LEASE_FILE = "cipherfleet-bench.lease"
FOLDER_PREFIX = "cipherfleet-bench-"
LEASE_VARIABLE = "CIPHERFLEET_LEASE"  # environment variable of every process of the lease
SOURCE_FILE, JOB_FIFO, PID_FILE = "lease_agent.py", "doorbell", "lease_agent.pid"
CHECK_EVERY_S = 2.0
TERMINATE_WITHIN_S = 3.0  # from SIGTERM to SIGKILL
STARTS_WITHIN_S = 20.0
PAGE = 1 << 20
# A shell records the exit code: it needs less memory than another Python process.
RUN_AND_KEEP_CODE = '"$@" >out 2>err </dev/null; echo $? >code.new; mv code.new code'

Lease = Dict[str, Any]  # noqa: UP006  # {"holder", "nonce", "until", "boot", "folder", "pid"}; until in boottime seconds


def boot_id() -> str:
    """Return an identifier that changes with every boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def boot_clock() -> float:
    """Return the seconds since the machine started, suspended time included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


# -- the lease -----------------------------------------------------------------------------------


def lease_path() -> Path:
    return Path(tempfile.gettempdir()) / LEASE_FILE


@contextlib.contextmanager
def locked_lease() -> Iterator[Any]:
    """Open the lease file and hold its exclusive lock; no other process reads or writes it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        with os.fdopen(os.open(lease_path(), flags, 0o644), "r+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            if is_current_file(stream):
                yield stream
                return


def is_current_file(stream: Any) -> bool:
    """True if the open *stream* is still the lease file: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), lease_path().stat())
    except FileNotFoundError:
        return False


def read_lease(stream: Any) -> Lease | None:
    """Return the lease in the file; None if the file is empty or is not a lease."""
    stream.seek(0)
    try:
        lease = json.loads(stream.read())
    except ValueError:
        return None
    keys = {"holder", "nonce", "until", "boot", "folder", "pid"}
    return lease if isinstance(lease, dict) and keys <= set(lease) else None


def write_lease(stream: Any, lease: Lease) -> None:
    stream.seek(0)
    stream.truncate()
    stream.write(json.dumps(lease) + "\n")
    stream.flush()
    os.fchmod(stream.fileno(), 0o644)  # other users may read who holds the target


def is_in_force(lease: Lease | None) -> bool:
    """True if *lease* belongs to this boot and has not expired."""
    return lease is not None and lease["boot"] == boot_id() and lease["until"] > boot_clock()


def current_lease(nonce: str) -> Lease | None:
    """Return the lease with this *nonce*; None if it has expired or belongs to another holder."""
    with contextlib.suppress(FileNotFoundError), lease_path().open() as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        lease = read_lease(stream)
        if lease is not None and lease["nonce"] == nonce and is_in_force(lease):
            return lease
    return None


# -- commands ------------------------------------------------------------------------------------


def take(request: Any) -> Any:
    """Take the lease for request["seconds"], or return its holder. Safe to repeat."""
    try:
        with locked_lease() as stream:
            lease = read_lease(stream)
            if lease is not None and not is_in_force(lease):
                release_resources(lease["nonce"], lease["folder"])
                lease = None
            if lease is not None and lease["nonce"] != request["nonce"]:
                return {"held": describe_holder(lease)}
            if lease is None:
                lease = new_lease(request)
            lease["until"] = boot_clock() + request["seconds"]
            write_lease(stream, lease)
    except PermissionError:
        return {"held": describe_foreign_lease()}
    return {
        "taken": lease,
        "pid": ensure_agent(lease, request["source"]),
        "machine": describe_machine(),
    }


def new_lease(request: Any) -> Lease:
    """Create the lease's folder, and a lease that has already expired: `take` sets its end."""
    folder = tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=work_folder())
    return {
        "holder": request["holder"],
        "nonce": request["nonce"],
        "until": 0.0,
        "boot": boot_id(),
        "folder": folder,
        "pid": 0,
    }


def work_folder() -> str | None:
    """Return the parent of the lease's folder; None for the default of `tempfile`.

    On many boards /tmp is in memory, and memory is one of the measured quantities.
    """
    if "TMPDIR" in os.environ or not os.access("/var/tmp", os.W_OK | os.X_OK):  # noqa: S108
        return None
    return "/var/tmp"  # noqa: S108


def describe_holder(lease: Lease) -> Any:
    """Return the holder, the seconds that are left, and the end by the target's clock."""
    left = lease["until"] - boot_clock() if lease["boot"] == boot_id() else 0.0
    until = time.strftime("%H:%M:%S", time.gmtime(time.time() + left))
    return {"holder": lease["holder"], "seconds": round(left, 1), "until": until}


def describe_foreign_lease() -> Any:
    """Describe a lease that belongs to another user and that this user may not change."""
    with contextlib.suppress(OSError), lease_path().open() as stream:
        lease = read_lease(stream)
        if lease is not None:
            return {**describe_holder(lease), "file": str(lease_path())}
    return {"holder": "another user", "seconds": 0.0, "until": "", "file": str(lease_path())}


def describe_machine() -> Any:
    """Return the facts that decide which packages can run on this machine."""
    return {
        "python": list(sys.version_info[:3]),
        "executable": sys.executable,
        "architecture": platform.machine(),
        "libc": list(platform.libc_ver()),
        "boot": boot_id(),
        "user": os.geteuid(),
        "cpus": os.cpu_count(),
    }


def renew(request: Any) -> Any:
    """Extend the lease to request["seconds"] from now, if it is still in force."""
    with locked_lease() as stream:
        lease = read_lease(stream)
        if lease is None or lease["nonce"] != request["nonce"] or not is_in_force(lease):
            if lease is None:
                lease_path().unlink()  # `locked_lease` has created it
            return {"lost": True}
        lease["until"] = boot_clock() + request["seconds"]
        write_lease(stream, lease)
    return {"renewed": True}


def release(request: Any) -> Any:
    """Kill all processes of the lease, remove its folder and the lease. Safe to repeat."""
    with locked_lease() as stream:
        lease = read_lease(stream)
        if lease is not None and lease["nonce"] == request["nonce"]:
            release_resources(lease["nonce"], lease["folder"])
            lease = None
        if lease is None:
            lease_path().unlink()
    return {"released": True}


def start(request: Any) -> Any:
    """Start a job unless it has been started before; return its process id."""
    lease = require_lease(request["nonce"])
    place = job_folder(lease, request["job"])
    if not place.is_dir():
        building = Path(tempfile.mkdtemp(dir=place.parent))
        wanted = {"argv": request["argv"], "env": request["env"]}
        (building / "request").write_text(json.dumps(wanted))
        building.rename(place)
        with Path(lease["folder"], JOB_FIFO).open("w") as bell:
            bell.write(request["job"] + "\n")
    deadline = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline:
        pid = read_number(place / "pid")
        if pid is not None:
            return {"pid": pid}
        time.sleep(0.01)
    return {"error": "the lease agent on the target does not start the job"}


def wait(request: Any) -> Any:
    """Return the exit codes of jobs when all have ended, or after request["seconds"].

    `idle_s` is the time since the latest write to any of the files in request["watch"].
    """
    lease = require_lease(request["nonce"])
    deadline = time.monotonic() + request["seconds"]
    while True:
        codes = {job: read_number(job_folder(lease, job) / "code") for job in request["jobs"]}
        if None not in codes.values() or time.monotonic() >= deadline:
            return {"codes": codes, "idle_s": idle_seconds(lease, request["watch"])}
        time.sleep(0.2)  # each wake-up disturbs the measurement


def idle_seconds(lease: Lease, watched: Any) -> float | None:
    """Return the seconds since the latest write to a file of *watched*; None if none exists."""
    ages = []
    for name in watched:
        with contextlib.suppress(FileNotFoundError):
            ages.append(time.time() - Path(lease["folder"], name).stat().st_mtime)
    return min(ages) if ages else None


def put(request: Any) -> Any:
    """Unpack a tar file from standard input into the folder request["name"]."""
    lease = require_lease(request["nonce"])
    place = Path(lease["folder"], request["name"])
    fresh = place.with_name(place.name + ".fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    data = io.BytesIO(sys.stdin.buffer.read())
    with tarfile.open(fileobj=data) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(fresh, filter="data")
        else:
            tar.extractall(fresh)  # noqa: S202  # the harness has made it
    shutil.rmtree(place, ignore_errors=True)
    fresh.rename(place)
    return {"put": request["name"]}


def get(request: Any) -> None:
    """Write the bytes of a file from request["offset"] on, at most one page, instead of JSON."""
    lease = require_lease(request["nonce"])
    with Path(lease["folder"], request["name"]).open("rb") as stream:
        stream.seek(request["offset"])
        sys.stdout.buffer.write(stream.read(PAGE))


def require_lease(nonce: str) -> Lease:
    """Return the lease with this *nonce*; if it is lost, print that and exit."""
    lease = current_lease(nonce)
    if lease is None:
        print(json.dumps({"lost": True}))  # noqa: T201
        sys.exit(0)
    return lease


def job_folder(lease: Lease, job: str) -> Path:
    return Path(lease["folder"], "jobs", job)


def read_number(file: Path) -> int | None:
    """Return the integer in *file*; None if the file does not exist yet or is not complete."""
    try:
        return int(file.read_text())
    except (FileNotFoundError, ValueError):
        return None


# -- the process that serves the lease -----------------------------------------------------------


def ensure_agent(lease: Lease, source: str) -> int:
    """Return the process id of the lease agent of *lease*; start it if it does not run yet."""
    folder = Path(lease["folder"])
    file = folder / PID_FILE
    if read_number(file) is None:
        (folder / "jobs").mkdir(exist_ok=True)
        program = folder / SOURCE_FILE
        program.write_text(source)
        with contextlib.suppress(FileExistsError):
            os.mkfifo(folder / JOB_FIFO, 0o600)
        subprocess.Popen(
            [sys.executable, "-I", "-S", str(program), "serve", json.dumps(lease)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, LEASE_VARIABLE: lease["nonce"]},
            cwd="/",
            start_new_session=True,  # it survives the end of the connection
        )
    deadline = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline:
        pid = read_number(file)
        if pid is not None:
            return pid
        time.sleep(0.01)
    return 0


def serve(lease: Lease) -> None:
    """Start the requested jobs until the lease ends; then release everything."""
    signal.signal(signal.SIGCHLD, reap)
    folder, nonce = lease["folder"], lease["nonce"]
    bell = os.open(Path(folder, JOB_FIFO), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    write_number(Path(folder, PID_FILE), os.getpid())
    while True:
        held = current_lease(nonce)
        if held is None:
            break
        left = max(0.0, held["until"] - boot_clock())
        ready, _, _ = select.select([bell], [], [], min(left + 0.01, CHECK_EVERY_S))
        if ready:
            for job in os.read(bell, 4096).decode().split():
                run_job(job_folder(lease, job), nonce)
    with contextlib.suppress(OSError), locked_lease() as stream:
        found = read_lease(stream)
        if found is None or found["nonce"] == nonce:
            release_resources(nonce, folder)
            lease_path().unlink()
            return
    release_resources(nonce, folder)


def run_job(place: Path, nonce: str) -> None:
    request = json.loads((place / "request").read_text())
    process = subprocess.Popen(
        ["/bin/sh", "-c", RUN_AND_KEEP_CODE, "sh", *request["argv"]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **request["env"], LEASE_VARIABLE: nonce},
        cwd=place,
        start_new_session=True,
    )
    process.returncode = 0  # `reap` collects the exit code
    write_number(place / "pid", process.pid)


def reap(_number: int, _frame: Any) -> None:
    """Collect exit codes of children, so that the kernel adds their CPU time to this process."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def write_number(file: Path, number: int) -> None:
    """Write *file* atomically, by renaming a new file."""
    fresh = file.with_suffix(".new")
    fresh.write_text(str(number))
    fresh.rename(file)


# -- cleaning up ---------------------------------------------------------------------------------


def release_resources(nonce: str, folder: str) -> None:
    """Kill every process of the lease except this one, and remove its folder."""
    deadline = time.monotonic() + TERMINATE_WITHIN_S
    while marked := marked_processes(nonce):
        number = signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL
        for pid in marked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(0.05)
    if Path(folder).name.startswith(
        FOLDER_PREFIX
    ):  # the path comes from a file: remove only our own folders
        shutil.rmtree(folder, ignore_errors=True)


def marked_processes(nonce: str) -> list[int]:
    """Return the processes that have the lease's environment variable, except this one."""
    mark = (LEASE_VARIABLE + "=" + nonce).encode()
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
    "serve": serve,
}


if __name__ == "__main__":
    os.umask(0o077)
    reply = COMMANDS[sys.argv[1]](json.loads(sys.argv[2]))
    if reply is not None:
        print(json.dumps(reply))  # noqa: T201
