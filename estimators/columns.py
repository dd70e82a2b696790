"""What a column is, and how the cells of one column are read: numbers, categories, dates, short text."""

from __future__ import annotations

import datetime
import decimal as decimals
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataTypeError
from .runtime import (
    NA_STRINGS,
    TEXT_BUCKETS,
    TEXT_CHARACTERS,
    CellError,
    date_reader,
    is_missing,
    level_of,
    number_reader,
    number_text_reader,
    read_dates,
    shown,
    text_counts,
    text_of,
)

KINDS = ("numeric", "categorical", "date", "text", "sparse")
SAMPLE = 300
"""A column's kind is guessed on so many of its distinct cells, then proven on all of them."""
MANY_LEVELS = 10_000
SMALLEST_IDENTIFIER = 20
"""Columns of fewer rows are never taken for row identifiers."""
_BOOLEANS = {"true": 1.0, "false": 0.0}
_CURRENCIES = frozenset(
    [
        "$",
        "€",
        "£",
        "¥",
        "₹",
        "₽",
        "₩",
        "₺",
        "₫",
        "₪",
        "₴",
        "US$",
        "R$",
        "A$",
        "C$",
        "USD",
        "EUR",
        "GBP",
        "CHF",
        "JPY",
        "INR",
        "kr",
        "zł",
    ]
)
_NUMERAL = re.compile(r"[\d.,'’\s+\-%]")
_DIALECTS = (
    ("", "."),
    (",", "."),
    ("", ","),
    (".", ","),
    (" ", "."),
    (" ", ","),
    ("\u00a0", ","),
    ("\u202f", ","),
    ("'", "."),
    ("’", "."),
)
_ZERO_CODE = re.compile(r"0\d+\Z")
_DATE_LIKE = re.compile(
    r"\s*(\d{1,4}[-/. ]\d{1,2}([-/. ]\d{1,4})?\b|\d{1,2}[-/. ]?[A-Za-z]{3,9}[-/., ]|[A-Za-z]{3,9}\.? \d)"
)
_DATES = (
    *("%Y/%m/%d", "%Y.%m.%d", "%Y-%m-%d", "%Y %m %d", "%Y-%m", "%Y/%m"),
    *(
        "%m/%d/%Y",
        "%d/%m/%Y",
        "%d.%m.%Y",
        "%m.%d.%Y",
        "%d-%m-%Y",
        "%m-%d-%Y",
        "%m/%d/%y",
        "%d/%m/%y",
        "%d.%m.%y",
        "%d-%m-%y",
        "%m-%d-%y",
    ),
    *(
        "%d %b %Y",
        "%d-%b-%Y",
        "%d-%b-%y",
        "%d %B %Y",
        "%b %d, %Y",
        "%B %d, %Y",
        "%b %d %Y",
        "%B %d %Y",
        "%b %Y",
        "%B %Y",
        "%d%b%Y",
    ),
)
_TIMES = (
    "%H:%M",
    "%H:%M:%S",
    "%H:%M:%S.%f",
    "%H:%M%z",
    "%H:%M:%S%z",
    "%H:%M:%S.%f%z",
    "%H:%M:%S %z",
    "%I:%M %p",
    "%I:%M:%S %p",
    "%I:%M%p",
)


@dataclass(frozen=True)
class Column:
    """One input column as the table keeps it.

    `kind` is one of `KINDS`. `levels` are the sorted level strings of a categorical column (`runtime.level_of`), into which
    its codes point. `parse` is the plain data by which `runtime` reads a cell given as text: for numbers `thousands`,
    `decimal`, `percent`, `currency`, `words`; for dates `format` (strptime's; absent means ISO 8601) and `unit`.
    `names` are the names of the columns of a sparse block.
    """

    name: str
    kind: str
    levels: tuple[str, ...] = ()
    parse: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "levels": list(self.levels),
            "parse": dict(self.parse),
            "names": list(self.names),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Column:
        return cls(plain["name"], plain["kind"], tuple(plain["levels"]), dict(plain["parse"]), tuple(plain["names"]))


@dataclass
class Reading:
    """A column read: `dropped` says why it is left out ("constant", "all missing", "identifier"), "" if it is kept.

    `integers` says whether it came as whole numbers; `cells` are the distinct texts and `codes` point into them (text only).
    """

    column: Column
    data: Any
    notes: list[str] = field(default_factory=list)
    dropped: str = ""
    integers: bool = False
    cells: list[str] = field(default_factory=list)
    codes: NDArray[np.int32] | None = None


def read_column(name: str, values: Any, decimal: str | None = None, row_of: Callable[[int], str] = str) -> Reading:
    """Types and reads one column. `values` is a numpy array or a pandas Series, (n,); `decimal` settles "1,234".

    `row_of` words a row's position in notes.

    Raises DataTypeError naming the column, for cells that are neither numbers, text, dates nor missing.
    """
    dtype = values.dtype
    kind = getattr(dtype, "kind", "O")
    if kind == "m" or type(dtype).__name__ == "PeriodDtype":
        raise _no_cells(name, "durations" if kind == "m" else "periods")
    if isinstance(dtype, np.dtype) and kind in "fiub":
        numbers_ = np.ascontiguousarray(np.asarray(values), dtype=np.float64)
        return _numeric(name, numbers_, {"words": _BOOLEANS} if kind == "b" else {}, integers=kind in "iu")
    if kind == "c" or str(dtype).startswith("complex"):
        raise DataTypeError(
            f"column {shown(name)} holds complex numbers: give the real and the imaginary part as two columns"
        )
    if kind in "fiub" and hasattr(values, "to_numpy"):  # pandas' nullable, sparse and Arrow-backed numbers
        numbers_ = np.asarray(values.to_numpy(dtype=np.float64, na_value=np.nan))
        return _numeric(name, numbers_, {"words": _BOOLEANS} if kind == "b" else {}, integers=kind in "iu")
    moments = _moments(values, dtype, kind)
    if moments is not None:
        return _dates(name, read_dates(moments, {}), {})
    return _from_levels(name, values, decimal, row_of)


def _no_cells(name: str, what: str) -> DataTypeError:
    """The refusal of durations and periods, which a row of text or JSON could not give in the same way."""
    how = "numbers (.dt.total_seconds())" if what == "durations" else "dates (.dt.to_timestamp())"
    return DataTypeError(f"column {shown(name)} holds {what}: give them as {how}")


def _moments(values: Any, dtype: Any, kind: str) -> NDArray[Any] | None:
    """Any column of moments as datetime64 (UTC), or None."""
    if kind == "M":
        if getattr(dtype, "tz", None) is not None:
            values = values.dt.tz_convert("UTC").dt.tz_localize(None)
        return np.asarray(values, dtype="datetime64[us]")
    return None


# --- columns with few or many distinct cells ------------------------------------------------------------------------------


def _from_levels(name: str, values: Any, decimal: str | None, row_of: Callable[[int], str]) -> Reading:
    """A column of strings, categories or objects: its distinct cells decide, and each is read once."""
    codes, cells, fixed = _distinct(name, values)
    absent = np.fromiter(
        (not c or c.isspace() if isinstance(c, str) else is_missing(c) for c in cells), bool, len(cells)
    )
    if absent.any():
        renumber = np.where(absent, -1, np.cumsum(~absent) - 1)
        codes = np.append(renumber, -1)[codes]  # code -1 takes the last entry
        cells = [c for c, gone in zip(cells, absent, strict=True) if not gone]
    codes = codes.astype(np.int32)
    if not cells:
        return Reading(Column(name, "numeric"), np.full(len(codes), np.nan), dropped="all missing")
    texts = [c for c in cells if isinstance(c, str)]
    if len(texts) == len(cells):
        reading = _from_texts(name, codes, texts, fixed, decimal)
        if reading is None:
            notes = _odd_note(name, codes, texts, row_of) or _blank_note(name, texts)
            return _categorical(name, codes, texts, notes)
        if reading.dropped == "identifier":
            reading.notes += _odd_note(name, codes, texts, row_of)
        return reading
    ordered = getattr(values.dtype, "ordered", False)  # their order is worth more than their names
    if (
        fixed
        and not ordered
        and all(isinstance(c, numbers.Real) and not isinstance(c, (bool, np.bool_)) for c in cells)
    ):
        return _categorical(name, codes, cells, [])  # numbers that the user made categories
    reading = _from_objects(name, codes, cells, texts, decimal)
    if reading is not None:
        return reading
    notes = _odd_note(name, codes, cells, row_of)
    if not fixed:
        codes, cells = _by_level(values, codes, cells)
    return _categorical(name, codes, cells, notes)


def _distinct(name: str, values: Any) -> tuple[NDArray[Any], list[Any], bool]:
    """(codes with -1 for missing, distinct cells, whether the user fixed the categories)."""
    import pandas as pd

    if isinstance(values.dtype, pd.CategoricalDtype):
        return (
            np.asarray(values.cat.codes if hasattr(values, "cat") else values.codes),
            list(values.dtype.categories),
            True,
        )
    try:
        codes, uniques = pd.factorize(values if values.dtype.kind != "S" else values.astype(object))
    except TypeError as error:
        for row, cell in enumerate(values):
            try:
                hash(cell)
            except TypeError:
                raise DataTypeError(
                    f"column {shown(name)} holds a {type(cell).__name__} in row {row}: {shown(cell)}; a cell must be a number, text, a date or missing"
                ) from None
        raise DataTypeError(f"column {shown(name)} of type {values.dtype} cannot be read: {error}") from None
    cells = uniques.tolist() if hasattr(uniques, "tolist") else list(uniques)
    return codes, [text_of(c) if isinstance(c, bytes) else c for c in cells], False


def _by_level(values: Any, codes: NDArray[np.int32], cells: Sequence[Any]) -> tuple[NDArray[np.int32], list[Any]]:
    """(codes, cells) where equal cells of two levels are told apart: True and 1, 2.5 and Decimal("2.50")."""
    import pandas as pd

    rows = np.flatnonzero(np.array([*(not isinstance(c, str) for c in cells), False])[codes])
    levels = [level_of(c) for c in np.asarray(values, object)[rows]]
    found, distinct = pd.factorize(np.array(levels, object))
    codes = codes.copy()
    codes[rows] = found + len(cells)
    return codes, [*cells, *distinct]


def _from_objects(
    name: str, codes: NDArray[np.int32], cells: list[Any], texts: list[str], decimal: str | None
) -> Reading | None:
    """Cells of which at least one is no string: numbers or dates; None where they are categories."""
    others = [c for c in cells if not isinstance(c, str)]
    for cell in others:
        if isinstance(cell, (datetime.timedelta, np.timedelta64)) or type(cell).__name__ == "Period":
            raise _no_cells(name, "periods" if type(cell).__name__ == "Period" else "durations")
        if isinstance(cell, (complex, np.complexfloating)):
            raise DataTypeError(
                f"column {shown(name)} holds complex numbers: give the real and the imaginary part as two columns"
            )
    if all(isinstance(c, (numbers.Real, np.bool_, decimals.Decimal)) for c in others):
        plain = all(isinstance(c, (bool, np.bool_)) for c in others)
        parse = {"words": _BOOLEANS} if plain else {}
        if texts:
            found = number_parse([t for t in texts if t not in NA_STRINGS], decimal)
            parse = parse if found is None else dict(found[0])
        values = _read_all(cells, number_reader(parse))
        if values is not None:
            whole = all(isinstance(c, (int, np.integer)) and not isinstance(c, bool) for c in cells)
            return _numeric(name, _spread(values, codes), parse, integers=whole)
    if all(isinstance(c, (datetime.date, np.datetime64)) for c in others):
        values = _read_all(cells, date_reader({}))
        if values is not None:
            return _dates(name, _spread(values, codes), {})
    return None


def _from_texts(
    name: str, codes: NDArray[np.int32], texts: list[str], fixed: bool, decimal: str | None
) -> Reading | None:
    """Cells that are all strings: numbers or dates where all of them are, text, an identifier; None where they are categories."""
    known = [t for t in texts if t not in NA_STRINGS]
    found = None if fixed or not known else number_parse(known, decimal)
    if found is not None:
        parse, ambiguous = found
        values = _read_all(texts, number_reader(parse))
        if values is not None:
            reading = _numeric(name, _spread(values, codes), parse)
            reading.notes += parse_notes(name, parse, ambiguous)
            return reading
    dated = date_parse(known) if known else None
    if dated is not None:
        parse, ambiguous = dated
        seconds = _read_texts_as_dates(texts, parse)
        if seconds is not None:
            reading = _dates(name, _spread(seconds, codes), parse)
            form = parse.get("format")
            reading.notes.append(
                f"column {shown(name)} is read as dates" + (f" in the form {form}" if form else "") + "."
            )
            if ambiguous:
                reading.notes.append(
                    f"column {shown(name)}: day and month could be the other way round; write dates as YYYY-MM-DD to be sure."
                )
            return reading
    if not fixed and _is_text(texts, len(codes)):
        return _text(name, codes, texts)
    if not fixed and _is_identifier(texts, codes):
        return Reading(Column(name, "categorical"), codes, dropped="identifier")
    return None


def _spread(values: NDArray[np.float64], codes: NDArray[np.int32]) -> NDArray[np.float64]:
    """The value of each row from the values of the distinct cells; code -1 gives NaN."""
    return np.append(values, np.nan)[codes]


def _read_all(cells: Sequence[Any], read: Any) -> NDArray[np.float64] | None:
    """Every cell read, or None if one does not read."""
    try:
        return np.fromiter((read(c) for c in cells), np.float64, len(cells))
    except CellError:
        return None


def _sample(texts: list[str]) -> list[str]:
    """At most SAMPLE texts, evenly spread."""
    return [texts[i] for i in np.linspace(0, len(texts) - 1, min(SAMPLE, len(texts))).astype(int)]


# --- numbers written as text ----------------------------------------------------------------------------------------------


def number_parse(texts: list[str], decimal: str | None = None) -> tuple[dict[str, Any], bool] | None:
    """How distinct texts, none of them missing, are all read as numbers: (parse, whether "1,234" was ambiguous), or None.

    Codes with leading zeros ("007") are no numbers. `decimal` is the decimal character if it is known.
    """
    if not texts:
        return None
    some = _sample(texts)
    if {t.strip().lower() for t in some} <= set(_BOOLEANS):
        return ({"words": dict(_BOOLEANS)}, False) if {t.strip().lower() for t in texts} <= set(_BOOLEANS) else None
    if not all(any(c.isdigit() for c in t) and len(t) <= 64 for t in some):
        return None
    signs = {_NUMERAL.sub("", t) for t in some} - {""}
    currency = signs.pop() if len(signs) == 1 and signs <= _CURRENCIES else ""
    percent = all(t.rstrip().endswith("%") for t in some)
    base: dict[str, Any] = {}
    if currency:
        base["currency"] = currency
    if percent:
        base["percent"] = True
    dialects = sorted(_DIALECTS, key=lambda pair: pair[1] != decimal) if decimal else _DIALECTS
    fitting = [d for d in dialects if _reads(some, _parse_of(base, d)) and _reads(texts, _parse_of(base, d))]
    if not fitting or any(_ZERO_CODE.match(t) for t in texts):
        return None
    ambiguous = decimal is None and fitting[0] == (",", ".") and ("", ",") in fitting
    return _parse_of(base, fitting[0]), ambiguous


def _parse_of(base: Mapping[str, Any], dialect: tuple[str, str]) -> dict[str, Any]:
    thousands, decimal = dialect
    parse = dict(base)
    if thousands:
        parse["thousands"] = thousands
    if decimal != "." or thousands:
        parse["decimal"] = decimal
    return parse


def _reads(texts: Sequence[str], parse: Mapping[str, Any]) -> bool:
    read = number_text_reader(parse)
    percent = bool(parse.get("percent"))
    try:
        for text in texts:
            if percent and not text.rstrip().endswith("%"):  # "5" beside "5%": unclear, left as it is
                return False
            read(text)
    except ValueError:
        return False
    return True


def parse_notes(name: str, parse: Mapping[str, Any], ambiguous: bool) -> list[str]:
    """How the texts of a column or a target are read as numbers, where it is not plain."""
    if not parse:
        return []
    said = [f"{key} {value!r}" for key, value in parse.items() if key in ("currency", "thousands", "decimal")]
    said += ["percent signs"] if parse.get("percent") else []
    said += ["true and false as 1 and 0"] if parse.get("words") else []
    notes = [f"column {shown(name)} is read as numbers ({', '.join(said)})."]
    if ambiguous:
        notes.append(
            f"column {shown(name)}: its commas are taken for thousands separators; give the decimal character (--decimal ,) if they are not."
        )
    return notes


def _odd_note(name: str, codes: NDArray[np.int32], cells: Sequence[Any], row_of: Callable[[int], str]) -> list[str]:
    """A warning where most distinct cells are numbers, or dates of one form, and some are not: names the first that is not."""
    some = [cells[i] for i in np.linspace(0, len(cells) - 1, min(SAMPLE, len(cells))).astype(int)]
    if len(cells) < 2:
        return []
    for what, parse in (("numbers", {}), *(("dates", parse) for parse in _date_parses(some))):
        read = number_reader(parse) if what == "numbers" else date_reader(parse)
        if sum(_is_read(cell, read) for cell in some) < 0.5 * len(some):
            continue
        for code, cell in enumerate(cells):  # distinct cells stand in the order of their first row
            if not _is_read(cell, read):
                odd = f"first odd cell: {shown(cell)}, row {row_of(int(np.argmax(codes == code)))}"
                return [f"column {shown(name)} mixes {what} and other text ({odd}): it is not read as {what}."]
    return []


def _is_read(cell: Any, read: Callable[[Any], float]) -> bool:
    try:
        return not np.isnan(read(cell))
    except CellError:
        return False


def _date_parses(some: Sequence[Any]) -> list[dict[str, Any]]:
    """How the first cell that looks like a date may be read."""
    first = next((c for c in some if isinstance(c, str) and 6 <= len(c.strip()) <= 40 and _DATE_LIKE.match(c)), None)
    return [] if first is None else [{}, *({"format": form} for form in _formats(first))]


def _blank_note(name: str, texts: Sequence[str]) -> list[str]:
    """A warning of two levels that differ in blanks alone."""
    twins = blank_twins(texts)
    if not twins:
        return []
    return [
        f"column {shown(name)} has the levels {shown(twins[0])} and {shown(twins[1])}, which differ in blanks alone: they are kept as two."
    ]


def blank_twins(texts: Sequence[str]) -> tuple[str, str] | None:
    """The first two texts that differ in the blanks around them alone."""
    seen: dict[str, str] = {}
    for text in texts:
        other = seen.setdefault(text.strip(), text)
        if other != text:
            return other, text
    return None


# --- dates written as text ------------------------------------------------------------------------------------------------


def date_parse(texts: list[str]) -> tuple[dict[str, Any], bool] | None:
    """How distinct texts, none of them missing, may all be read as dates: (parse, whether day and month are unsure), or None.

    Only a sample is tried: `_read_texts_as_dates` proves it.
    """
    some = _sample(texts)
    if not all(6 <= len(t.strip()) <= 40 and _DATE_LIKE.match(t) for t in some):
        return None
    if _read_all(some, date_reader({})) is not None:
        return {}, False
    formats = [form for form in _formats(some[0]) if _follows(some, form)]
    if not formats:
        return None
    swapped = [form for form in formats if form != formats[0] and sorted(form) == sorted(formats[0])]
    for form in formats:  # the one that reads all cells, where only one does
        others = [o for o in formats if o != form]
        if others and _follows(texts, form) and not any(_follows(texts, o) for o in others):
            return {"format": form}, False
    return {"format": formats[0]}, bool(swapped)


def _formats(text: str) -> list[str]:
    """The strptime formats that could read `text`, ISO 8601 left out."""
    timed = ":" in text
    joins = ["T"] if re.search(r"\dT\d", text) else [" ", ", "]
    dates = [d for d in _DATES if ("%b" in d.lower()) == bool(re.search(r"[A-Za-z]{3}", text.split(":")[0]))]
    if not timed:
        return [d for d in dates if _follows([text], d)]
    return [f"{d}{join}{t}" for d in dates for join in joins for t in _TIMES if _follows([text], f"{d}{join}{t}")]


def _follows(texts: Sequence[str], form: str) -> bool:
    try:
        for text in texts:
            datetime.datetime.strptime(text.strip(), form)
    except ValueError:
        return False
    return True


def _read_texts_as_dates(texts: Sequence[str], parse: Mapping[str, Any]) -> NDArray[np.float64] | None:
    return _read_all(texts, date_reader(parse))


# --- the five kinds ---------------------------------------------------------------------------------------------------------


def _numeric(name: str, data: NDArray[np.float64], parse: Mapping[str, Any], integers: bool = False) -> Reading:
    dropped = ""
    if len(data) and np.isnan(data[0]):
        dropped = "all missing" if np.isnan(data).all() else ""
    elif len(data) and (data[:100] == data[0]).all() and (data == data[0]).all():
        dropped = "constant"
    return Reading(Column(name, "numeric", parse=dict(parse)), data, dropped=dropped, integers=integers)


def _dates(name: str, data: NDArray[np.float64], parse: Mapping[str, Any]) -> Reading:
    reading = _numeric(name, data, parse)
    reading.column = Column(name, "date", parse=dict(parse))
    return reading


def _categorical(name: str, codes: NDArray[np.int32], cells: Sequence[Any], notes: list[str]) -> Reading:
    """Level codes, -1 for missing. Cells whose level strings agree (1 and "1") are one level."""
    strings = [level_of(c) for c in cells]
    used = np.bincount(codes[codes >= 0], minlength=len(cells)) > 0
    levels = sorted({s for s, u in zip(strings, used, strict=True) if u})
    place = {level: i for i, level in enumerate(levels)}
    renumber = np.array([*(place.get(s, -1) for s in strings), -1], np.int32)
    data = renumber[codes]
    dropped = "all missing" if not levels else "constant" if len(levels) == 1 and data.min() == 0 else ""
    if len(levels) >= MANY_LEVELS:
        notes = [
            *notes,
            f"column {shown(name)} has {len(levels):,} categories: rare ones carry little, and the model grows with them.",
        ]
    return Reading(Column(name, "categorical", levels=tuple(levels)), data, notes=notes, dropped=dropped)


def _text(name: str, codes: NDArray[np.int32], texts: list[str]) -> Reading:
    """Hashed counts of words and word pairs: CSR float32 (n, TEXT_BUCKETS), an empty row for a missing text."""
    from scipy import sparse

    indptr, indices, data = text_counts([*texts, ""], TEXT_BUCKETS)
    counts = sparse.csr_matrix((data, indices, indptr), shape=(len(texts) + 1, TEXT_BUCKETS))
    rows = counts[np.where(codes < 0, len(texts), codes)]
    note = f"column {shown(name)} is read as text: its words are counted, hashed into {TEXT_BUCKETS} buckets."
    return Reading(Column(name, "text"), rows, notes=[note], cells=[t[:TEXT_CHARACTERS] for t in texts], codes=codes)


def _is_text(texts: list[str], rows: int) -> bool:
    """Many distinct cells of several words, or long ones. Thousands of levels that repeat are categories, not text."""
    if len(texts) < SMALLEST_IDENTIFIER:
        return False
    some = _sample(texts)
    words = sum(len(t[:TEXT_CHARACTERS].split()) for t in some) / len(some)
    characters = sum(map(len, some)) / len(some)
    return (
        (len(texts) >= 0.3 * rows and words >= 2.5) or (len(texts) >= 0.9 * rows and words >= 1.8) or characters > 200
    )


def _is_identifier(texts: list[str], codes: NDArray[np.int32]) -> bool:
    """Every row has its own single word."""
    n = len(codes)
    return (
        n >= SMALLEST_IDENTIFIER and len(texts) == n and not any(c.isspace() for t in _sample(texts) for c in t.strip())
    )
