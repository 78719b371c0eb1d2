"""What a computer is called and what its CPU can do, for measurements and threads."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path


def cpu_name() -> str:
    try:
        if sys.platform == "darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        return _cpuinfo("model name").partition(":")[2].strip()
    except (OSError, StopIteration, subprocess.SubprocessError):
        return platform.processor() or platform.machine()


def cpu_flags() -> str:
    """The line of Linux's /proc/cpuinfo that lists them; elsewhere a name for the kind of CPU."""
    try:
        return _cpuinfo("flags", "Features")
    except (OSError, StopIteration):
        return platform.processor()


def physical_cores() -> int:
    """Threads to compute with: hyper-threads share the units that matter, so one a core.

    At most as many as this process may run on.
    """
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed))


def _cpuinfo(*names: str) -> str:
    """The first line that begins so. Raises OSError or StopIteration when there is none."""
    return next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(names))
