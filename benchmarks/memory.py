"""The most memory that this process has held."""

import resource
import sys
from pathlib import Path


def forget_peak() -> None:
    """That of loading the model, which may be higher; Linux alone can."""
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def own_peak() -> float:
    """MiB that were resident at most.

    NOTE a footgun: Linux's ru_maxrss of a child is at least that of the process that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
