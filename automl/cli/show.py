"""Results on stdout: one JSON object, or a table that fits where it is read."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from typing import Any


def as_json(found: Any) -> None:
    """One JSON object; what is not a number (an infinity, a NaN) is null, as JSON has no word for it."""
    print(json_text(found))


def json_text(found: Any) -> str:
    """What `as_json` prints."""
    return json.dumps(_plain(found), indent=1, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    item = getattr(value, "item", None)  # a numpy number
    return _plain(item()) if item is not None else str(value)


def table(lines: Sequence[Sequence[str]]) -> None:
    """Lines of cells, the header first: drawn on a terminal, aligned by spaces elsewhere."""
    if sys.stdout.isatty():
        _drawn(lines)
        return
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _drawn(lines: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for head in lines[0]:
        drawn.add_column(Text(head))
    for line in lines[1:]:
        drawn.add_row(*(Text(cell) for cell in line))
    Console().print(drawn)
