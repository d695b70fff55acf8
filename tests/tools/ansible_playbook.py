"""The playbook on a booted Debian: `python -m tests.tools.ansible_playbook`, as root.

It installs ansible-core into a virtual environment, checks the playbook's syntax, boots a clean
Debian with sshd (systemd-nspawn), and runs the playbook twice. After the first run the node joins a
fleet of this machine. The second run changes nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from cipherfleet_broker import start_broker
from tests.support.debian_package import agree, build_package
from tests.support.device_card import NODE, OTHERS, free_port, others_running, plain_site
from tests.support.paths import ROOT
from tests.tools.device_root import booted, make_root, run, service, step, wait_for

ANSIBLE = "ansible-core>=2.19,<2.22"
PLAYBOOK = ROOT / "deploy/ansible/playbook.yml"
PATIENCE_S = 300.0


def main() -> int:
    """Run it all; the exit code says how it went."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--package", type=Path, help="the package for amd64; default: build it")
    options.add_argument("--root", type=Path, help="a tar archive of a Debian with sshd")
    given = options.parse_args()
    needed = ["systemd-nspawn", "mmdebstrap", "dpkg-deb", "ssh", "ssh-keygen"]
    missing = [tool for tool in needed if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        sys.exit(f"needs root, and {' '.join(needed)}: not found: {' '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="cipherfleet-ansible-") as folder:
        show(Path(folder), given.package, given.root)
    return 0


def show(folder: Path, package: Path | None, archive: Path | None) -> None:
    """Install a node with the playbook, in *folder*."""
    step("ansible")
    venv.create(folder / "ansible", with_pip=True)
    run([str(folder / "ansible/bin/pip"), "install", "-q", ANSIBLE])
    step("a Debian with sshd")
    make_root(folder / "root", archive or folder / "root.tar", more="openssh-server,python3-apt")
    package = package or build_package(folder)
    port = let_in(folder)
    site = plain_site(folder)
    archives = folder / "set/current/archives"
    archives.mkdir(parents=True)
    bundle = archives / f"{NODE}.tar.gz"
    subprocess.run(["tar", "-C", site.nodes, "-czf", bundle, NODE], check=True)
    play(folder, port, package, "--syntax-check")
    with (
        start_broker("embedded", site.port, site.security),
        others_running(site.bundles),
        booted(folder / "root") as device,
    ):
        wait_for(lambda: listens(port), "sshd listens", PATIENCE_S)
        step("booted")
        assert play(folder, port, package) > 0
        nodes = [
            folder / "root/var/lib/cipherfleet" / NODE,
            *(site.bundles[name] for name in OTHERS),
        ]
        wait_for(lambda: agree(nodes, 5), "the node joins", PATIENCE_S)
        step(f"joined: {service(device, 'ActiveState', 'NRestarts')}")
        process = service(device, "MainPID")
        assert play(folder, port, package) == 0
        assert service(device, "MainPID") == process
        step("the second run changed nothing")
        assert play(folder, port, package, "-e", "replace=yes") > 0
        assert not list((folder / "root/root").glob("*.tar.gz"))
        step("the same archive was installed again, and removed")


def let_in(folder: Path) -> int:
    """Let root of this machine into the Debian with a key. Return the port of its sshd."""
    port, root = free_port(), folder / "root"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "id")])
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    shutil.copy(folder / "id.pub", root / "root/.ssh/authorized_keys")
    config = f"Port {port}\nListenAddress 127.0.0.1\nUsePAM no\n"
    (root / "etc/ssh/sshd_config.d/trial.conf").write_text(config)
    return port


def listens(port: int) -> bool:
    """Whether a server on this machine answers at *port*."""
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def play(folder: Path, port: int, package: Path, *options: str) -> int:
    """Run the playbook. Return how many of its tasks changed something."""
    ssh = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    (folder / "inventory.ini").write_text(
        f"[nodes]\n{NODE} ansible_host=127.0.0.1 ansible_port={port} ansible_user=root "
        f"ansible_become=false ansible_ssh_private_key_file={folder / 'id'} "
        f"ansible_ssh_common_args='{ssh}' ansible_python_interpreter=/usr/bin/python3\n"
    )
    command: list[str | Path] = [
        *(folder / "ansible/bin/ansible-playbook", "-i", folder / "inventory.ini", PLAYBOOK),
        *("-e", f"version={package.name.split('_')[1]}", "-e", f"packages={package.parent}"),
        *("-e", f"fleet={folder / 'set'}", *options),
    ]
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "ANSIBLE_HOME": str(folder / "home")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"the playbook failed:\n{done.stdout}{done.stderr}")
    found = re.search(r"changed=(\d+)", done.stdout)
    step(f"ansible-playbook {' '.join(options)}: {found[0] if found else 'no complaint'}")
    return int(found[1]) if found else 0


if __name__ == "__main__":
    sys.exit(main())
