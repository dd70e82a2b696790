"""What an artifact's manifest says of its inputs: one field a column, its JSON schema, rows of it, and what is wrong with one."""

from __future__ import annotations

import datetime
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .beside import runtime

KINDS = {
    "number": "number",
    "date": "date",
    "category": "category",
    "hashed": "category",
    "text": "text",
    "sparse": "number",
}
SCALAR = (str, int, float, bool, type(None))
LEVELS_SHOWN = 50
"""A schema lists at most so many categories of a column."""
_MISSING = "|".join(sorted(name.replace(".", "\\.") for name in runtime.NA_STRINGS))
NUMBER_TEXT = rf"^(\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*|\s*[+-]?([iI][nN][fF]([iI][nN][iI][tT][yY])?|[nN][aA][nN])\s*|\s*|{_MISSING})$"
"""Text that reads as a plain number, or as a missing one."""


@dataclass(frozen=True)
class Field:
    """An input column that the model uses. `kind`: number, date, category or text; one that is `optional` is 0 where absent."""

    name: str
    kind: str
    entries: tuple[runtime.Column, ...]
    optional: bool = False

    @property
    def levels(self) -> list[str]:
        """The categories that the model knows ([] where they are hashed)."""
        longest = max(
            (e for e in self.entries if isinstance(e, runtime.Category)), key=lambda e: len(e.codes), default=None
        )
        return [] if longest is None or isinstance(longest, runtime.Hashed) else list(longest.codes)

    @property
    def parse(self) -> Mapping[str, Any]:
        """How text is read as a number or date; {} for the plain way."""
        found: Mapping[str, Any] = self.entries[0].entry.get("parse") or {}
        return {key: value for key, value in found.items() if key != "infinite"}

    def json_schema(self) -> dict[str, Any]:
        """What a JSON cell of this column may be."""
        if self.kind == "number":
            plain = not self.parse
            text = {"pattern": NUMBER_TEXT} if plain else {}
            how = "" if plain else "; text is read as in training (" + ", ".join(sorted(self.parse)) + ")"
            return {
                "type": ["number", "boolean", "string", "null"],
                **text,
                "description": f"a number; null where missing{how}",
            }
        if self.kind == "date":
            form = self.parse.get("format")
            how = f"as {form}, or ISO 8601" if form else "in ISO 8601"
            return {
                "type": ["string", "number", "null"],
                "format": "date-time",
                "description": f"a moment {how}, or a number of {self.parse.get('unit') or 's'} since 1970; null where missing",
            }
        found: dict[str, Any] = {"type": ["string", "number", "boolean", "null"]}
        if self.kind == "text":
            return found | {"description": "text; null where missing"}
        levels = self.levels
        more = f" and {len(levels) - LEVELS_SHOWN} more" if len(levels) > LEVELS_SHOWN else ""
        known = ", ".join(levels[:LEVELS_SHOWN]) + more if levels else "any"
        return found | {"description": f"a category ({known}); one that is not known counts as unseen, null as missing"}

    def problem(self, value: Any) -> str:
        """What is wrong with a cell; "" if nothing is."""
        if type(value) not in SCALAR:
            return f"is {'an object' if isinstance(value, dict) else 'a list'}, not one value"
        for entry in self.entries:
            try:
                entry.read(value) if self.kind == "number" else entry.cell(value) if self.kind == "date" else None
            except runtime.CellError as error:
                return f"is not {error.what}"
        return ""

    def sample(self, rng: random.Random) -> Any:
        """A cell of this column, missing one time in twenty."""
        if rng.random() < 0.05:
            return 0.0 if self.optional else None
        if self.kind == "number":
            return self._number(rng)
        if self.kind == "date":
            form = self.parse.get("format")
            zone = datetime.UTC if form and "%z" in form else None
            moment = datetime.datetime(2000, 1, 1, tzinfo=zone) + datetime.timedelta(seconds=rng.randrange(800_000_000))
            return moment.strftime(form) if form else moment.isoformat()
        if self.kind == "text":
            return " ".join(rng.choice(("good", "bad", "a", "the", "red", "new", "size", "not")) for _ in range(12))
        levels = self.levels
        return rng.choice(levels) if levels else f"level {rng.randrange(1000)}"

    def _number(self, rng: random.Random) -> float:
        for entry in self.entries:
            if isinstance(entry, runtime.Scaled):
                return entry.center + entry.scale * rng.gauss(0.0, 1.0)
            if isinstance(entry, runtime.Shifted):
                return entry.shift + rng.gauss(0.0, 1.0)
        return rng.gauss(0.0, 1.0) * float(10 ** rng.randrange(4))


def fields_of(model: runtime.Model) -> list[Field]:
    """The fields of a loaded model, in the order in which it uses its columns."""
    found: dict[str, list[runtime.Column]] = {name: [] for name in model.used}
    for entry in model.encoder.entries:
        for name in entry.names if isinstance(entry, runtime.Block) else (entry.name,):
            found[name].append(entry)
    return [
        Field(name, KINDS[entries[0].parsed], tuple(entries), isinstance(entries[0], runtime.Block))
        for name, entries in found.items()
    ]


def sample_rows(fields: Sequence[Field], count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows (dicts) that fit the fields: known categories, numbers about the centre of training where the encoder has one."""
    rng = random.Random(seed)
    return [{field.name: field.sample(rng) for field in fields} for _ in range(count)]


def problems_of(fields: Sequence[Field], rows: Sequence[Any], most: int) -> list[dict[str, Any]]:
    """At most so many problems of rows: {"row": position, "field": name, "problem": ..., "found": the cell}."""
    found: list[dict[str, Any]] = []
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            what = "null" if row is None else f"a {type(row).__name__}"
            found.append(
                {"row": i, "field": None, "problem": f"a row is an object of columns and values, this is {what}"}
            )
        else:
            found += _row_problems(fields, i, row)
        if len(found) >= most:
            break
    return found[:most]


def _row_problems(fields: Sequence[Field], i: int, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for field in fields:
        if field.name not in row:
            if not field.optional:
                found.append(
                    {"row": i, "field": field.name, "problem": "is missing (null says that a value is not known)"}
                )
            continue
        problem = field.problem(row[field.name])
        if problem:
            found.append({"row": i, "field": field.name, "problem": problem, "found": short(row[field.name])})
    return found


def short(value: Any) -> Any:
    """A cell as an error message shows it."""
    return value if isinstance(value, (bool, int, float)) or value is None else runtime.shown(value)
