"""How records are written: as JSON lines, each file whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from seqdsd.atomic import write_atomically


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, atomically. NaN and infinity, which JSON does not have, become null."""
    write_atomically(path, "".join(f"{_line(row)}\n" for row in rows))


def _line(row: Mapping[str, Any]) -> str:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        # Few rows have what JSON lacks, and looking through all of them takes as long as writing them.
        return json.dumps(json_values(row), ensure_ascii=False, allow_nan=False)


def json_values(value: Any) -> Any:
    """``value`` as JSON can hold it: NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {name: json_values(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
