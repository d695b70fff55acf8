"""Run the numerical tests under every BLAS kernel that this processor can run.

    python -m tests.tools.kernels [PYTEST ARGUMENTS]

NumPy and SciPy choose the kernels of their sums by the processor, so that another machine adds in
another order. OPENBLAS_CORETYPE chooses as on an older one. For kernels of processors without FMA,
NumPy's own loops and the C library's functions do without it, too. Arguments replace the list of
test files below. Exits with 1 if tests fail under any kernel.
"""

from __future__ import annotations

import os
import subprocess
import sys

WITHOUT_FMA = ("Sandybridge", "Nehalem", "Prescott")
KERNELS = ("SkylakeX", "Haswell", *WITHOUT_FMA)  # those of the wheels, newest first
NUMERICAL = (
    "analysis/test_averaging.py",
    "analysis/test_centralised.py",
    "analysis/test_convergence.py",
    "analysis/test_forecast.py",
    "deploy/test_results.py",
    "lab/test_attacks.py",
    "lab/test_baselines.py",
    "lab/test_figures.py",
    "lab/test_problems.py",
    "lab/test_simulate.py",
    "node/core/test_objective.py",
    "node/core/test_optimiser.py",
    "node/core/test_quantiser.py",
    "node/core/test_randomness.py",
    "node/core/test_reference.py",
    "provisioning/test_topology.py",
    "repo/test_tolerances.py",
    "repo/test_tutorial.py",
)
FILES = [f"tests/{name}" for name in NUMERICAL]
PYTEST = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not fleet and not docker"]

# Prints the kernel that is really used, after products and a solution that need it.
LOOK = """
import ctypes, re
from pathlib import Path
import numpy as np
matrix = np.random.default_rng(1).random((64, 64)) + 64.0 * np.eye(64)
assert np.allclose(np.linalg.solve(matrix, matrix @ matrix[0]), matrix[0])
for file in sorted(set(re.findall(r"/\\S*openblas\\S*", Path("/proc/self/maps").read_text()))):
    library = ctypes.CDLL(file)
    for name in ("scipy_openblas_get_corename64_", "openblas_get_corename64_",
                 "scipy_openblas_get_corename", "openblas_get_corename"):
        if hasattr(library, name):
            core = getattr(library, name)
            core.restype = ctypes.c_char_p
            print(core().decode())
            break
"""
# Prints what NumPy chooses at run time: it can leave these out.
FEATURES = """
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
print(*(name for name in __cpu_dispatch__ if __cpu_features__.get(name)))
"""


def environment_of(kernel: str) -> dict[str, str]:
    """Variables under which a process computes as a processor of the kind *kernel* does."""
    chosen = {**os.environ, "OPENBLAS_CORETYPE": kernel}
    if kernel in WITHOUT_FMA:
        features = subprocess.run(
            [sys.executable, "-c", FEATURES], capture_output=True, text=True, check=True
        ).stdout.strip()
        chosen["NPY_DISABLE_CPU_FEATURES"] = features
        chosen["GLIBC_TUNABLES"] = "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4"
    return chosen


def kernel_in(environment: dict[str, str]) -> str:
    """The kernel that is used in *environment*; empty if this processor cannot run it."""
    looked = subprocess.run(
        [sys.executable, "-c", LOOK], env=environment, capture_output=True, text=True, check=False
    )
    return looked.stdout.split()[0] if looked.returncode == 0 and looked.stdout else ""


def main(arguments: list[str]) -> int:
    failed, seen = [], set[str]()
    for kernel in KERNELS:
        environment = environment_of(kernel)
        used = kernel_in(environment)
        if not used or used in seen:
            why = f"it falls back to {used}" if used else "this processor has not its instructions"
            print(f"{kernel}: not run, {why}", flush=True)
            continue
        seen.add(used)
        fma = "without FMA" if kernel in WITHOUT_FMA else "with FMA"
        print(f"{kernel}: OpenBLAS says {used}, {fma}", flush=True)
        words = [sys.executable, *PYTEST, *(arguments or FILES)]
        if subprocess.run(words, env=environment, check=False).returncode:
            failed.append(kernel)
    print(f"failed under: {', '.join(failed)}" if failed else f"passed under {len(seen)} kernels")
    return int(bool(failed) or not seen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
