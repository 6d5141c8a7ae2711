"""How numbers of several runs are written as one."""

from __future__ import annotations

from collections.abc import Iterable

from seqdsd.kinds import NONE, Number


def span(values: Iterable[Number]) -> str:
    """Write one number if all are equal, else the smallest and the largest."""
    found = sorted(set(values))
    if not found:
        return NONE
    return f"{found[0]:g}" if len(found) == 1 else f"{found[0]:g}–{found[-1]:g}"
