"""The state of a machine, read from the formats of kernel and firmware."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from cipherfleet_hil.measurement.environment import (
    Clock,
    Environment,
    clock_now,
    core_volts,
    firmware_clock,
    firmware_temperature,
    read_environment,
    throttled_bits,
)
from cipherfleet_hil.measurement.machine_files import MachineFiles
from cipherfleet_hil.measurement.machine_load import Quota

PI_FILES = {
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
    "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd\n\n"
    "Revision\t: c03114\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n",
    "proc/uptime": "5000.12 19000.34\n",
    "proc/loadavg": "0.42 0.30 0.25 1/123 456\n",
    "proc/sys/kernel/osrelease": "6.6.31+rpt-rpi-v8\n",
    "proc/stat": "cpu  1000 200 300 90000 500 10 20 70 5 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n",
    "proc/meminfo": "MemTotal:        3884000 kB\nMemFree:         1000000 kB\n"
    "MemAvailable:    3500000 kB\nSwapTotal:        102396 kB\nSwapFree:         100000 kB\n",
    "proc/vmstat": "nr_free_pages 250000\npswpin 12\npswpout 34\n",
    "proc/self/cgroup": "0::/user.slice/session.scope\n",
    "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n",
    "sys/fs/cgroup/cpu.stat": "usage_usec 1\n",
    "sys/fs/cgroup/user.slice/cpu.max": "150000 100000\n",
    "sys/fs/cgroup/user.slice/cpu.stat": "usage_usec 9\nnr_throttled 3\nthrottled_usec 250000\n",
    "sys/fs/cgroup/user.slice/session.scope/cpu.max": "max 100000\n",
    "sys/fs/cgroup/user.slice/session.scope/cpu.stat": "nr_throttled 0\nthrottled_usec 0\n",
    "sys/class/thermal/thermal_zone0/temp": "49100\n",
    "sys/class/hwmon/hwmon0/name": "cpu_thermal\n",
    "sys/class/hwmon/hwmon1/name": "rpi_volt\n",
    "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "1\n",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "arch_sys_counter\n",
    **{
        f"sys/devices/system/cpu/cpu{core}/cpufreq/{name}": text
        for core, now in enumerate(("600000", "1500000"))
        for name, text in (
            ("scaling_cur_freq", now),
            ("scaling_min_freq", "600000"),
            ("scaling_max_freq", "1800000"),
            ("scaling_governor", "ondemand"),
        )
    },
}
PI_TOOLS = {
    "vcgencmd measure_clock arm": "frequency(48)=1500345728",
    "vcgencmd get_throttled": "throttled=0x50005",
    "vcgencmd measure_temp": "temp=48.3'C",
    "vcgencmd measure_volts core": "volt=0.8600V",
}


def made(
    root: Path, files: Mapping[str, str], tools: Mapping[str, str] | None = None
) -> MachineFiles:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    def tool(words: Sequence[str]) -> str:
        return (tools or {}).get(" ".join(words), "")

    return MachineFiles(root, tool)


def test_a_board_reports_its_whole_state(tmp_path: Path) -> None:
    found = read_environment([99], made(tmp_path, PI_FILES, PI_TOOLS))
    assert (found.board, found.is_board, found.virtual) == (
        "Raspberry Pi 4 Model B Rev 1.4",
        True,
        False,
    )
    assert found.clock == Clock(now=1_500_000_000, least=600_000_000, most=1_800_000_000)
    assert (found.governor, found.firmware_clock_hz) == ("ondemand", 1_500_345_728)
    assert (found.throttled, found.under_voltage) == (0x50005, True)
    assert (found.temperature_c, found.core_volts) == (48.3, 0.86)
    assert (found.kernel, found.clock_source) == ("6.6.31+rpt-rpi-v8", "arch_sys_counter")
    assert found.load_1min == 0.42
    memory = found.memory
    assert (memory.available_kib, memory.swap_used_kib) == (3_500_000, 2_396)
    assert (memory.swapped_in, memory.swapped_out) == (12, 34)
    ticks = os.sysconf("SC_CLK_TCK")
    assert found.cpu_time.busy_s * ticks == pytest.approx(1530)
    assert found.cpu_time.steal_s * ticks == pytest.approx(70)
    assert found.cpu_time.total_s * ticks == pytest.approx(92_100)
    assert found.quota == Quota(cpus=1.5, periods_throttled=3, throttled_s=0.25)


def test_a_board_without_its_firmwares_tool_reports_what_the_kernel_knows(tmp_path: Path) -> None:
    machine = made(tmp_path, PI_FILES)
    found = read_environment([99], machine)
    assert (found.firmware_clock_hz, found.throttled, found.core_volts) == (None, None, None)
    assert found.temperature_c == 49.1
    assert clock_now(machine) == 1_500_000_000
    assert clock_now(MachineFiles(tmp_path, lambda _: "frequency(0)=1800000000")) == 1_800_000_000


def test_a_virtual_machine_is_no_board(tmp_path: Path) -> None:
    files = {**PI_FILES, "proc/device-tree/model": "linux,dummy-virt\0"}
    found = read_environment([99], made(tmp_path, files))
    assert (found.is_board, found.virtual) == (False, True)
    (tmp_path / "proc/device-tree/model").unlink()
    (tmp_path / "proc/cpuinfo").write_text("model name\t: Some CPU\nflags\t: fpu hypervisor\n")
    found = read_environment([99], MachineFiles(tmp_path, lambda _: ""))
    assert (found.cpu, found.board, found.virtual) == ("Some CPU", None, True)


def test_the_first_version_of_control_groups_has_its_quota_read_too(tmp_path: Path) -> None:
    files = {
        **{name: text for name, text in PI_FILES.items() if "cgroup" not in name},
        "proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n2:memory:/x\n1:name=systemd:/\n0::/\n",
        "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "50000\n",
        "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpu/docker/abc/cpu.stat": "nr_throttled 7\nthrottled_time 1500000000\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    }
    found = read_environment([99], made(tmp_path, files))
    assert found.quota == Quota(cpus=0.5, periods_throttled=7, throttled_s=1.5)


def test_the_time_of_a_process_is_that_of_all_it_started_and_of_no_other(tmp_path: Path) -> None:
    machine = made(tmp_path, PI_FILES)

    def process(pid: int, parent: int, name: str, ticks: str) -> None:
        folder = tmp_path / "proc" / str(pid)
        folder.mkdir()
        (folder / "stat").write_text(f"{pid} ({name}) S {parent} 1 1 0 -1 4 1 1 1 1 {ticks} 20 0")

    process(1, 0, "init", "1000 1000 0 0")
    process(10, 1, "bench", "10 20 3 4")
    process(11, 10, "a (b) c", "100 0 0 0")
    process(12, 11, "worker", "0 200 0 0")
    process(13, 1, "other", "5000 0 0 0")
    ticks = os.sysconf("SC_CLK_TCK")
    assert read_environment([10], machine).cpu_time.own_s * ticks == pytest.approx(337)
    assert read_environment([11, 13], machine).cpu_time.own_s * ticks == pytest.approx(5300)


@pytest.mark.parametrize(
    ("printed", "bits"),
    [
        ("throttled=0x0", 0),
        ("throttled=0x50005\n", 0x50005),
        ("throttled=0xE0008", 0xE0008),
        ("VCHI initialization failed", None),
        ("", None),
    ],
)
def test_the_bits_of_throttling(printed: str, bits: int | None) -> None:
    assert throttled_bits(printed) == bits


def test_what_the_firmware_prints_otherwise_is_not_guessed_at() -> None:
    assert firmware_clock("frequency(48)=600117184\n") == 600_117_184
    assert firmware_clock('error=2 error_msg="Invalid arguments"') is None
    assert firmware_temperature("temp=61.8'C") == 61.8
    assert firmware_temperature("temp=n/a") is None
    assert core_volts("volt=1.2000V") == 1.2
    assert core_volts("") is None


def test_this_machine_reports_its_state_through_the_worker_and_counts_up() -> None:
    first = read_environment()
    assert sum(range(3_000_000)) > 0
    second = read_environment()
    assert second.cpu_time.own_s > first.cpu_time.own_s
    assert second.cpu_time.busy_s >= first.cpu_time.busy_s
    code = [
        sys.executable,
        "-m",
        "cipherfleet_hil.measuring.worker",
        "environment",
        "--own",
        str(os.getpid()),
    ]
    printed = subprocess.run(code, capture_output=True, text=True, check=True, timeout=120).stdout
    message = msgspec.json.decode(printed, type=Environment)
    assert message.cpu == first.cpu
    assert {"cipherfleet", "python", "gmpy2", "gmp", "numpy", "phe", "paho-mqtt", "openssl"} <= set(
        message.versions
    )
    assert json.loads(printed)["cpu_time"]["own_s"] >= second.cpu_time.own_s


def test_the_worker_needs_nothing_but_what_a_device_has() -> None:
    code = (
        "import sys;"
        "heavy = ('click', 'rich', 'docker', 'jsonschema', 'matplotlib', 'networkx', 'scipy',"
        " 'pyperf', 'cipherfleet_deploy', 'cipherfleet_provisioning', 'cipherfleet_broker');"
        "sys.modules.update(dict.fromkeys(heavy));"  # to import one of them now fails
        "import cipherfleet_hil.measuring.worker, cipherfleet_hil.measuring.cases"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
