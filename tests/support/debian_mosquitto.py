"""The mosquitto of this machine with Debian's own configuration, and files added to it.

It runs in a mount namespace: nothing is changed in /etc, /run and /var.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIGURATION = Path("/etc/mosquitto/mosquitto.conf")
FROM_DEBIAN = ("persistence_location /var/lib/mosquitto/", "include_dir /etc/mosquitto/conf.d")
ENTER = ("unshare", "--mount", "--propagation", "private", "sh", "-euc")
# $1 holds etc, as DESTDIR of an installation, and work, an empty folder.
OVERLAY = """
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/etc,workdir=$1/work" /etc
"""
PLACES = """
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib/mosquitto
mount --bind "$1/log" /var/log/mosquitto
mkdir /run/mosquitto
chown mosquitto /run/mosquitto /var/lib/mosquitto /var/log/mosquitto
"""
START = PLACES + "exec mosquitto -c /etc/mosquitto/mosquitto.conf\n"
# A systemctl that knows one service, and notes what it was asked.
SYSTEMCTL = """\
#!/bin/sh
echo "$@" >>/run/asked
pid=$(cat /run/mosquitto/mosquitto.pid 2>/dev/null || true)
case $1 in
restart) if [ -n "$pid" ]; then kill "$pid"; while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done; fi ;;
reload*) exec kill -HUP "$pid" ;;
start) if [ -n "$pid" ]; then exit 0; fi ;;
esac
exec mosquitto -d -c /etc/mosquitto/mosquitto.conf
"""  # noqa: E501
BOOT = (
    PLACES
    + """
trap 'kill $(cat /run/mosquitto/mosquitto.pid 2>/dev/null) 2>/dev/null || true' EXIT
mkdir -p /run/systemd/system
cp "$1/systemctl" /run/systemctl
PATH=/run:$PATH
"""
)


def find_obstacle(folder: Path) -> str:
    """Say why Debian's mosquitto cannot be tried in *folder*; empty if it can."""
    if os.geteuid() != 0:
        return "a mount namespace needs root"
    if not (shutil.which("mosquitto") and shutil.which("unshare")):
        return "mosquitto or unshare is not installed"
    text = CONFIGURATION.read_text() if CONFIGURATION.is_file() else ""
    if not all(line in text.splitlines() for line in FROM_DEBIAN):
        return f"{CONFIGURATION} is not that of Debian"
    try:
        pwd.getpwnam("mosquitto")
    except KeyError:
        return "there is no user mosquitto"
    trial = folder / "trial"
    done = run_with_files(prepare(trial), "true")
    shutil.rmtree(trial)
    return "" if done.returncode == 0 else f"no overlay over /etc: {done.stderr.strip()}"


def prepare(root: Path) -> Path:
    """Make the folders that are needed in *root*; root/etc lies over /etc."""
    for name in ("etc", "work", "log"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "systemctl").write_text(SYSTEMCTL)
    (root / "systemctl").chmod(0o755)
    return root


def run_with_files(root: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run the shell *script* where the files of root/etc lie over those of /etc."""
    command = [*ENTER, OVERLAY + script, "sh", str(prepare(root))]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@contextmanager
def debian_mosquitto(root: Path) -> Iterator[subprocess.Popen[str]]:
    """Run mosquitto with Debian's configuration and the files of root/etc; root/log has its log."""
    command = [*ENTER, OVERLAY + START, "sh", str(prepare(root))]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)
