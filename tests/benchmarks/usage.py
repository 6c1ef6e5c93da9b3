"""What a benchmark has used so far."""

from __future__ import annotations

import resource


def cpu_seconds() -> float:
    """Seconds of CPU of this process and of those that it has waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )
