"""How a CSV text is written: its separator, decimal character and header, and which of its records have the wrong number of fields."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import numpy as np

from automl.estimators.errors import DataError, UsageError
from automl.estimators.runtime import NA_STRINGS, shown

COMMON, RARE = ",;\t|", ":^~\x01\x1f "
"""Separators that are looked for; the rare ones must fit every record."""
WORDS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}
HEAD = 256 << 10
MOST_HEAD = 64 << 20
SNIFFED = 200
"""Records looked at to find the dialect."""
BLOCK = 8 << 20
_DECIMAL_COMMA, _THOUSANDS, _DECIMAL_POINT = (
    re.compile(r"\s*[+-]?\d+,\d+\s*\Z"),
    re.compile(r"\s*[+-]?\d{1,3}(,\d{3})+\s*\Z"),
    re.compile(r"\s*[+-]?\d*\.\d+\s*\Z"),
)
_END = "\x1eend of text\x1e"


@dataclass(frozen=True)
class Dialect:
    """`sep` separates fields, `decimal` the fraction; `header` are the names; `padded` says whether blanks follow separators.

    `extra` is "" or what the one field more that every record has is: "trailing" (a separator ends each line) or "names"
    (unnamed row names stand first); `doubt` says why "names" may be wrong: decimal commas without quotes look the same.
    """

    sep: str
    decimal: str
    header: tuple[str, ...]
    padded: bool = False
    extra: str = ""
    notes: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    """Columns of codes with leading zeros, as far as was looked: they are no numbers."""
    doubt: str = ""

    @property
    def fields(self) -> int:
        """How many fields a record has."""
        return len(self.header) + bool(self.extra)


@contextmanager
def _large_fields() -> Iterator[None]:
    """Cells of any length, as pandas takes them."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def sniff(stream: IO[bytes], name: str, sep: str | None = None, decimal: str | None = None) -> Dialect:
    """The dialect of the UTF-8 text in `stream`, from its head. Raises DataError where it holds no header or no record."""
    sep = _one_character(sep, "sep")
    decimal = _one_character(decimal, "decimal")
    if sep is not None and sep == decimal:
        raise UsageError(f"sep and decimal are both {sep!r}: they must differ")
    text, whole = _head(stream)
    if not text.strip():
        raise DataError(f"{name} holds only blanks")
    with _large_fields():
        ranked = [] if sep is not None else _ranked(text, whole)
        chosen = sep if sep is not None else ranked[0][1] if ranked else ","
        records = _records(text, chosen, whole)
        if len(records[0]) > 1 and all(field.startswith(" ") for field in records[0][1:]) and chosen != " ":
            records = _records(text, chosen, whole, padded=True)
            padded = True
        else:
            padded = False
    header, rows = records[0], records[1:]
    notes = []
    if sep is None and chosen != ",":
        notes.append(f"{name} is separated by {_spoken(chosen)}.")
    if len(ranked) > 1 and ranked[0][0] == ranked[1][0]:
        notes.append(f"{name} could also be separated by {_spoken(ranked[1][1])}: say which with --sep.")
    if decimal is None and chosen != "," and _has_decimal_comma(rows):
        decimal = ","
        notes.append(f"{name} has decimal commas.")
    if rows and len(header) > 1 and all(_is_number(field) for field in header):
        notes.append(f"the first line of {name} looks like data; it is taken for the header.")
    extra, doubt = _extra(header, rows), ""
    if extra == "names":
        found = f"the rows of {name} have one field more than the header"
        if decimal is None and chosen == "," and _may_be_decimal_commas(rows):
            doubt = f"{found}, and may have decimal commas without quotes (the first: {shown(chosen.join(rows[0]))})"
        notes.append(f"{doubt or found}: the first is taken for row names and left out.")
    codes = () if extra == "names" else tuple(name for place, name in enumerate(header) if _are_codes(rows, place))
    return Dialect(chosen, decimal or ".", tuple(header), padded, extra, tuple(notes), codes, doubt)


def _one_character(value: str | None, option: str) -> str | None:
    if value is None:
        return None
    value = WORDS.get(value.lower(), value)
    if len(value) != 1 or not value.isascii() or value in '\n\r"\0' or value.isalnum():
        raise UsageError(f'{option} {shown(value)} must be one plain character, like "," or ";" or "tab"')
    return value


def _spoken(sep: str) -> str:
    return {"\t": "tabs", " ": "blanks", ",": "commas", ";": "semicolons"}.get(sep, repr(sep))


def _head(stream: IO[bytes]) -> tuple[str, bool]:
    """(the text's head, cut after a line's end; whether it is all of it)."""
    size, data = HEAD, b""
    while True:
        data += stream.read(size)
        whole = len(data) < HEAD or not (more := stream.read(1))
        if whole:
            return data.decode("utf-8", "replace"), True
        data += more
        cut = max(data.rfind(b"\n"), data.rfind(b"\r"))
        if data.find(b"\n", 0, cut) >= 0 or data.find(b"\r", 0, cut) >= 0 or len(data) > MOST_HEAD:
            return data[: cut + 1].decode("utf-8", "replace"), False
        size = len(data)


def _records(text: str, sep: str, whole: bool, padded: bool = False) -> list[list[str]]:
    """The first records that are not blank."""
    found: list[list[str]] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=sep, skipinitialspace=padded)
    try:
        for record in reader:
            if record and not (len(record) == 1 and not record[0].strip()):
                found.append(record)
            if len(found) > SNIFFED:
                break
        else:
            if not whole and len(found) > 1:
                found.pop()  # may be cut in the middle of a quoted field
    except csv.Error:
        pass  # what was read before it serves; the parser reports the rest
    return found or [[text.splitlines()[0] if text else ""]]


def _ranked(text: str, whole: bool) -> list[tuple[float, str]]:
    """(fit, separator), the best first: the share of records with as many fields as the header, to one digit."""
    scored: list[tuple[tuple[float, int], str]] = []
    for sep in COMMON + RARE:
        if sep not in text:
            continue
        records = _records(text, sep, whole)
        fields = len(records[0])
        if fields < 2:
            continue
        same = sum(len(r) in (fields, fields + 1) for r in records[1:]) / max(1, len(records) - 1)
        if sep in RARE and (
            same < 1 or len(records) < 3 or any(s in records[0][0] + text.split("\n", 1)[0] for s in COMMON)
        ):
            continue
        scored.append(((round(same, 1) if len(records) > 1 else 1.0, fields), sep))
    scored.sort(key=lambda item: item[0], reverse=True)
    return [(fit + fields / 1e9, sep) for (fit, fields), sep in scored]


def _has_decimal_comma(rows: Sequence[Sequence[str]]) -> bool:
    """Whether a comma can only be a decimal one, and no point need be: "1.234" beside "0,5" has thousands."""
    cells = [cell for row in rows for cell in row]
    commas = [c for c in cells if _DECIMAL_COMMA.match(c)]
    points = [c for c in cells if _DECIMAL_POINT.match(c)]
    return any(not _THOUSANDS.match(c) for c in commas) and all(_THOUSANDS.match(c.replace(".", ",")) for c in points)


def _may_be_decimal_commas(rows: Sequence[Sequence[str]]) -> bool:
    """Whether two neighbouring cells are in every row what a number with a comma falls into."""
    places = range(len(rows[0]) - 1)
    return any(all(_DECIMAL_COMMA.match(f"{row[i]},{row[i + 1]}") for row in rows) for i in places)


def _are_codes(rows: Sequence[Sequence[str]], place: int) -> bool:
    """Whether the cells of a column are digits, three or more and all as many, some of them with a zero in front: "00123"."""
    cells = [cell for row in rows if place < len(row) and (cell := row[place].strip()) and cell not in NA_STRINGS]
    if len(cells) < 2 or len(cells[0]) < 3 or not any(cell.startswith("0") for cell in cells):
        return False
    return len({len(cell) for cell in cells}) == 1 and all(cell.isascii() and cell.isdigit() for cell in cells)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _extra(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows or any(len(row) != len(header) + 1 for row in rows):
        return ""
    if all(not row[-1].strip() for row in rows):
        return "trailing"
    return "names" if len(rows) > 1 else ""


# --- records with too many or too few fields ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wrong:
    """A record with the wrong number of fields (0: a quote opened there is never closed), by its line and its bytes."""

    line: int
    fields: int
    start: int
    end: int


def looks_even(stream: IO[bytes], dialect: Dialect, records: int) -> bool:
    """Whether `records` records, none of them too long, all have their fields: the separators outside quotes are as many as that takes.

    Quotes are taken by their parity, so False is only a suspicion, which `wrong_records` settles.
    """
    inside, found = False, 0
    while block := stream.read(BLOCK):
        data = np.frombuffer(block, np.uint8)
        separators = data == ord(dialect.sep)
        if b'"' in block or inside:
            quoted = (np.cumsum(data == 34, dtype=np.uint8) & 1).astype(bool) ^ inside
            separators &= ~quoted
            inside = bool(quoted[-1])
        found += int(np.count_nonzero(separators))
    return found == records * (dialect.fields - 1)


def wrong_records(stream: IO[bytes], dialect: Dialect, most: int | None = None) -> list[Wrong]:
    """The records whose number of fields is not the header's, exactly as a CSV reader sees them; at most `most`.

    After a quote that is never closed, reading goes on with the next line.
    """
    first, line = stream.tell(), 1
    found: list[Wrong] = []
    while True:
        with _large_fields():
            wrong, unclosed = _wrong_from(stream, dialect, first, line, None if most is None else most - len(found))
        found += wrong
        if unclosed is None or (most is not None and len(found) >= most) or len(found) > 100_000:
            return found
        found.append(unclosed)
        first, line = unclosed.end, unclosed.line + 1
        stream.seek(first)


def _wrong_from(
    stream: IO[bytes], dialect: Dialect, offset: int, line: int, most: int | None
) -> tuple[list[Wrong], Wrong | None]:
    sizes: list[int] = []  # bytes of the lines of the record being read
    ended = False

    def lines() -> Iterator[str]:
        nonlocal ended
        text = io.TextIOWrapper(stream, "utf-8", "replace", newline="")
        try:
            for part in text:
                sizes.append(len(part.encode("utf-8", "surrogatepass")))
                yield part
        finally:
            text.detach()
        ended = True
        yield _END

    found: list[Wrong] = []
    for record in csv.reader(lines(), delimiter=dialect.sep, skipinitialspace=dialect.padded):
        if ended:
            unclosed = record != [_END] and bool(sizes)
            return found, Wrong(line, 0, offset, offset + sizes[0]) if unclosed else None
        end = offset + sum(sizes)
        blank = not record or (len(record) == 1 and not record[0].strip())
        if not blank and len(record) != dialect.fields and not (dialect.extra and len(record) == len(dialect.header)):
            found.append(Wrong(line, len(record), offset, end))
            if most is not None and len(found) >= most:
                break
        offset, line = end, line + len(sizes)
        sizes.clear()
    return found, None
