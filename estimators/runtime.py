"""The deployed prediction path in one file: cells to a float32 row, an ONNX model to a prediction.

It needs numpy, and onnxruntime once a model is loaded; this file may be copied alone beside an application. With the
files of `BESIDE` and `BESIDE_SOURCES` beside it, it also runs models on the compiled engine: a C compiler instead of onnxruntime.

`load(path)` opens an artifact (a folder or one .zip; its files are checked before any of them is parsed) as a `Model`.
The same functions that read a cell here read it in training (`table.py`, `encoder.py`), so the two cannot drift apart.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import itertools
import json
import math
import os
import re
import stat
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .errors import ArtifactError, DataError, DataTypeError, ResourceError, UsageError
else:
    try:
        from .errors import ArtifactError, DataError, DataTypeError, ResourceError, UsageError
    except ImportError:  # this file alone, without its package

        class ArtifactError(ValueError):
            """An artifact is corrupt, of an unknown format, or refused."""

        class DataError(ValueError):
            """The content of a table or row is wrong."""

        class DataTypeError(TypeError):
            """A table or row has a type that is not understood."""

        class ResourceError(ValueError):
            """Something that the machine lacks."""

        class UsageError(ValueError):
            """A path or an argument is wrong."""


# --- one cell ---------------------------------------------------------------------------------------------------------

NA_STRINGS = frozenset(
    "#N/A;#N/A N/A;#NA;-1.#IND;-1.#QNAN;-NaN;-nan;1.#IND;1.#QNAN;<NA>;N/A;NA;NULL;NaN;NaT;None;n/a;nan;null".split(  # noqa: SIM905
        ";"
    )
)
"""Strings that mean "missing" where they are not a known level (pandas' default list, and NaT)."""
TEXT_BUCKETS = 1024
TEXT_CHARACTERS = 10_000
"""Only so many characters of a text cell are read."""
_EPOCH_DAYS = 719_163  # datetime.date(1970, 1, 1).toordinal()
_UNIT_SECONDS = {"D": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_WORD = re.compile(r"\w+")


class CellError(ValueError):
    """A cell does not read as its column's kind. `row` is its 0-based position, `value` what was found."""

    def __init__(self, value: object, what: str, row: int = 0) -> None:
        super().__init__(f"{shown(value)} is not {what}")
        self.value, self.what, self.row = value, what, row


def shown(value: object, width: int = 60) -> str:
    """`repr`, cut to `width` characters: what an error message shows of a cell or a name."""
    text = repr(value)
    return text if len(text) <= width else text[: width - 3] + "..."


def text_of(value: bytes) -> str:
    """Bytes as the text that they are read as: UTF-8, with escapes for what is none."""
    return value.decode("utf-8", "backslashreplace")


def is_missing(value: object) -> bool:
    """Whether a cell is missing: None, NaN, pandas' NA and NaT, "", white space and the strings of `NA_STRINGS`.

    A categorical column looks a string up among its levels first: a known level is never missing.
    """
    if value is None:
        return True
    if isinstance(value, str):
        return value in NA_STRINGS or not value or value.isspace()
    if isinstance(value, bytes):
        return is_missing(text_of(value))
    if type(value).__name__ in ("NAType", "NaTType"):
        return True
    try:
        return bool(value != value)
    except (TypeError, ValueError):  # an array or another object without one truth value
        return False


def name_of(label: object) -> str:
    """A column's label as text; the levels of a MultiIndex joined by "_"."""
    if isinstance(label, tuple):
        return "_".join(str(part) for part in label if str(part) != "")
    return str(label)


def labels_by_name(labels: Iterable[Any]) -> dict[str, Any]:
    """Labels of columns by their names (`name_of`); where 1 and "1" are both there, the string is the one that is meant."""
    known: dict[str, Any] = {}
    for label in labels:
        if isinstance(label, str):
            known[label] = label
        else:
            known.setdefault(name_of(label), label)
    return known


def level_of(value: object) -> str:
    """The canonical level string of a category that is not missing: True is "True", 3 and 3.0 are "3", 0.5 is "0.5"."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (bool, np.bool_)):
        return "True" if value else "False"
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return str(int(number)) if number.is_integer() else repr(number)
    return text_of(value) if isinstance(value, bytes) else str(value)


def _plain_number(text: str) -> float:
    """`float`, without Python's underscores."""
    if "_" in text:
        raise ValueError(text)
    return float(text)


def number_text_reader(parse: Mapping[str, Any]) -> Callable[[str], float]:
    """How a number written as text is read: `parse` as in `Column.parse`; the function raises ValueError.

    Keys, all optional: `words` {lower-case word: number}; `currency` a sign removed once; `percent` True: a trailing
    "%" is removed and the number kept as written ("5%" is 5.0); `thousands` the grouping character (groups of three
    digits, or two as in India); `decimal` the decimal character.
    """
    words: Mapping[str, float] = parse.get("words") or {}
    currency, percent = parse.get("currency") or "", bool(parse.get("percent"))
    thousands, decimal = parse.get("thousands") or "", parse.get("decimal") or "."
    if not (words or currency or percent or thousands or decimal != "."):
        return _plain_number
    point, comma = re.escape(decimal), re.escape(thousands)
    grouped = re.compile(rf"[+-]?\d{{1,3}}(?:{comma}\d{{2,3}})*{comma}\d{{3}}(?:{point}\d*)?\Z") if thousands else None

    def read(text: str) -> float:
        text = text.strip()
        if words:
            known = words.get(text.lower())
            if known is not None:
                return float(known)
        if currency:
            text = text.replace(currency, "", 1).strip()
        if percent and text.endswith("%"):
            text = text[:-1].rstrip()
        if grouped is not None and thousands in text:
            if grouped.match(text) is None:
                raise ValueError(text)
            text = text.replace(thousands, "")
        if decimal != ".":
            if "." in text:
                raise ValueError(text)
            text = text.replace(decimal, ".", 1)
        return _plain_number(text)

    return read


def number_reader(parse: Mapping[str, Any]) -> Callable[[object], float]:
    """How a cell of a numeric column is read: a float, NaN where missing; the function raises CellError.

    Booleans are 0 and 1; a whole number beyond float64 is an infinity of its sign. An infinity is missing where
    `parse["infinite"]` says so.
    """
    text_reader = number_text_reader(parse)
    if parse.get("infinite") == "missing":
        plain = number_reader({key: value for key, value in parse.items() if key != "infinite"})

        def read_finite(value: object) -> float:
            number = plain(value)
            return number if math.isfinite(number) else math.nan

        return read_finite

    def read(value: object) -> float:
        try:
            if isinstance(value, (str, bytes)):
                return text_reader(value if isinstance(value, str) else text_of(value))
            return float(value)  # type: ignore[arg-type]
        except OverflowError:
            return math.inf if value > 0 else -math.inf  # type: ignore[operator]
        except (TypeError, ValueError):
            if is_missing(value):
                return math.nan
            raise CellError(value, "a number") from None

    return read


_read_plain = number_reader({})


def _moment_seconds(moment: datetime.datetime) -> float:
    """Epoch seconds of a datetime; one without a time zone counts as UTC."""
    offset = moment.utcoffset()
    seconds = (moment.toordinal() - _EPOCH_DAYS) * 86400 + moment.hour * 3600 + moment.minute * 60 + moment.second
    if offset is not None:
        seconds -= offset.days * 86400 + offset.seconds
    return float(seconds * 1_000_000 + moment.microsecond) / 1e6


def date_reader(parse: Mapping[str, Any]) -> Callable[[object], float]:
    """How a cell of a date column is read: epoch seconds (UTC where no zone is given), NaN where missing.

    Reads datetime, date, numpy.datetime64, pandas.Timestamp, text (by `parse["format"]`, strptime's, where there is
    one, otherwise ISO 8601) and numbers, which count `parse["unit"]` ("D", "h", "m", "s", "ms", "us", "ns"; default
    "s") since 1970. The function raises CellError.
    """
    form, scale = parse.get("format"), _UNIT_SECONDS[parse.get("unit") or "s"]
    from_text, from_iso = datetime.datetime.strptime, datetime.datetime.fromisoformat

    def read_text(text: str) -> float:
        if form is not None:
            try:
                return _moment_seconds(from_text(text.strip(), form))
            except ValueError:  # ISO 8601 is understood beside the column's own format
                pass
        return _moment_seconds(from_iso(text.strip()))

    def read(value: object) -> float:
        try:
            if isinstance(value, (str, bytes)):
                return read_text(value if isinstance(value, str) else text_of(value))
            if is_missing(value):
                return math.nan
            if isinstance(value, datetime.datetime):
                return _moment_seconds(value)
            if isinstance(value, datetime.date):
                return float((value.toordinal() - _EPOCH_DAYS) * 86400)
            if isinstance(value, np.datetime64):
                return float(value.astype("datetime64[us]").astype(np.int64)) / 1e6
            if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
                return float(value) * scale
        except (OverflowError, ValueError):
            if is_missing(value):
                return math.nan
        raise CellError(value, "a date" if form is None else f"a date (as {form})") from None

    return read


def _read_each(values: Iterable[Any], read: Callable[[object], float], count: int) -> NDArray[np.float64]:
    """Each cell read, each distinct string once; raises CellError with its row."""
    out = np.empty(count, np.float64)
    known: dict[str, float] = {}
    for row, value in enumerate(values):
        number = known.get(value) if type(value) is str else None
        if number is None:
            try:
                number = read(value)
            except CellError as error:
                raise CellError(value, error.what, row) from None
            if type(value) is str:
                known[value] = number
        out[row] = number
    return out


def read_numbers(values: Any, parse: Mapping[str, Any]) -> NDArray[np.float64]:
    """A numeric column, (n,) of anything, as float64 with NaN where missing. Raises CellError (with its row)."""
    array = cells(values)
    if array.dtype.kind in "fiub":
        return without_infinities(array.astype(np.float64), parse)
    return _read_each(array.tolist(), number_reader(parse), len(array))


def without_infinities(numbers: NDArray[np.float64], parse: Mapping[str, Any]) -> NDArray[np.float64]:
    """Of a column that takes them as missing (`number_reader`): NaN in their place."""
    return np.where(np.isinf(numbers), np.nan, numbers) if parse.get("infinite") == "missing" else numbers


def read_dates(values: Any, parse: Mapping[str, Any]) -> NDArray[np.float64]:
    """A date column, (n,) of anything, as epoch seconds with NaN where missing. Raises CellError (with its row)."""
    array = cells(values)
    if array.dtype.kind == "M":
        out = array.astype("datetime64[us]").astype(np.int64) / 1e6
        out[np.isnat(array)] = np.nan
        return np.asarray(out, np.float64)
    if array.dtype.kind in "fiu":
        return array.astype(np.float64) * _UNIT_SECONDS[parse.get("unit") or "s"]
    return _read_each(array.tolist(), date_reader(parse), len(array))


def cells(values: Any) -> NDArray[Any]:
    """A column as a one-dimensional array: pandas, polars and Arrow columns by their own `to_numpy`, lists as objects.

    Nullable and categorical columns become objects, or floats with NaN where they are numbers; bytes of an array become text.
    """
    if isinstance(values, np.ndarray):
        return np.char.decode(values, "utf-8", "backslashreplace") if values.dtype.kind == "S" else values
    arrow: Any = getattr(values, "type", None)
    if hasattr(arrow, "value_type") and hasattr(arrow, "index_type"):  # a missing one would be the last category
        values = values.cast(arrow.value_type)
    if hasattr(values, "to_numpy"):
        kind = getattr(getattr(values, "dtype", None), "kind", "")
        if getattr(getattr(values, "dtype", None), "tz", None) is not None and hasattr(values, "dt"):
            values = values.dt.tz_convert(None)
        if kind in ("i", "u", "f") and not isinstance(values.dtype, np.dtype) and hasattr(values, "isna"):
            return np.asarray(values.to_numpy(dtype=np.float64, na_value=np.nan))  # pandas' nullable numbers
        if hasattr(values, "to_pylist") and not hasattr(values, "chunks"):  # an Arrow array, which would refuse to copy
            return np.asarray(values.to_numpy(zero_copy_only=False))
        return np.asarray(values.to_numpy())
    out = np.empty(len(values), object)
    out[:] = list(values)
    return out


def exact_cells(values: Any) -> NDArray[Any]:
    """`cells`, with nullable whole numbers that float64 would round as objects: levels and words are made of their digits."""
    array = cells(values)
    rounded = array.dtype.kind == "f" and not isinstance(getattr(values, "dtype", None), np.dtype)
    if not rounded or not (np.abs(array) >= 2.0**53).any():
        return array
    name = next(name for name in ("to_pylist", "to_list", "tolist") if hasattr(values, name))
    return cells(list(getattr(values, name)()))


def text_buckets(text: object, buckets: int = TEXT_BUCKETS) -> list[int]:
    """The hash buckets of a text's words and pairs of neighbouring words, lower-cased, in order, with repeats."""
    if not isinstance(text, str):
        if is_missing(text):
            return []
        text = level_of(text)
    words = _WORD.findall(text[:TEXT_CHARACTERS].lower())
    grams = words + [f"{first} {second}" for first, second in itertools.pairwise(words)]
    return [zlib.crc32(gram.encode("utf-8", "surrogatepass")) % buckets for gram in grams]


def text_counts(
    texts: Iterable[object], buckets: int = TEXT_BUCKETS
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Texts as hashed counts in CSR form: (indptr (n + 1,), indices, data), indices ascending in a row.

    Features are the words and the pairs of neighbouring words, lower-cased, hashed by CRC-32 into `buckets` (Weinberger
    et al. 2009, without signs). A missing text is an empty row.
    """
    indptr, indices, data = [0], [], []
    for text in texts:
        counts: dict[int, int] = {}
        for bucket in text_buckets(text, buckets):
            counts[bucket] = counts.get(bucket, 0) + 1
        order = sorted(counts)
        indices.extend(order)
        data.extend([counts[bucket] for bucket in order])
        indptr.append(len(indices))
    return np.asarray(indptr, np.int64), np.asarray(indices, np.int32), np.asarray(data, np.float32)


# --- one column -------------------------------------------------------------------------------------------------------

FLOAT_MAX = float(np.finfo(np.float32).max)
SQUASHED = 1e6
"""Scaled numbers are clipped to it before they are squashed: farther out nothing changes."""
MISSING, UNSEEN = -2, -1
"""Codes of a categorical cell that is missing, or whose level wasn't among the training rows."""
DATE_PARTS = ("days", "year", "month", "weekday", "yearday", "hour", "day")
"""The last is the whole day by itself: a code, as of a level, counted from its center."""
_LAST_DAY = 10_000_000
_LOG1P = [struct.unpack("f", struct.pack("f", math.log1p(count)))[0] for count in range(TEXT_CHARACTERS + 1)]
_LOG1P_ARRAY = np.asarray(_LOG1P, np.float32)


def to_float32(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Float64 rounded to float32, what is beyond its range clipped to it (infinities too); NaN stays."""
    return np.clip(values, -FLOAT_MAX, FLOAT_MAX).astype(np.float32)


def squash(values: Any, centers: Any, scales: Any) -> Any:
    """`z / sqrt(1 + z^2 / 9)` with z = (value - center) / scale: linear near 0, at most 3; NaN becomes 0.

    The numeric preprocessing of RealMLP (Holzmueller et al. 2024, arXiv 2407.04491), in float64; arrays.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        z = np.clip((values - centers) / scales, -SQUASHED, SQUASHED)
    return np.nan_to_num(z / np.sqrt(1.0 + z * z / 9.0), nan=0.0)


def squash_one(value: float, center: float, scale: float) -> float:
    """`squash` of one number, bit for bit."""
    z = (value - center) / scale
    if z != z:
        return 0.0
    z = min(max(z, -SQUASHED), SQUASHED)
    return z / math.sqrt(1.0 + z * z / 9.0)


def date_part(name: str, seconds: Any, day: Any) -> Any:
    """One part of moments: `seconds` since 1970 as float64 and `day` their whole days as integers; scalars or arrays."""
    if name == "days":
        return seconds / 86400.0
    if name == "hour":
        return (seconds - day * 86400.0) // 3600.0
    if name == "weekday":
        return (day + 3) % 7
    if name == "day":
        return day
    # Gregorian calendar from days (H. Hinnant, "chrono-compatible low-level date algorithms"); years begin in March
    shifted = day + 719_468
    era = shifted // 146_097
    of_era = shifted - era * 146_097
    year_of_era = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted_month = (5 * of_year + 2) // 153
    month = (shifted_month + 2) % 12 + 1
    year = year_of_era + era * 400 + (month <= 2)
    if name == "year":
        return year
    if name == "month":
        return month
    before = year - 1
    first = 365 * before + before // 4 - before // 100 + before // 400 - 719_162
    return day - first + 1


def date_parts(seconds: NDArray[np.float64], names: Sequence[str]) -> NDArray[np.float64]:
    """(n, parts) of epoch seconds; NaN where missing."""
    missing = np.isnan(seconds)
    known = np.where(missing, 0.0, np.clip(seconds, -_LAST_DAY * 86400.0, _LAST_DAY * 86400.0))
    day = np.floor(known / 86400.0).astype(np.int64)
    out = np.empty((len(seconds), len(names)))
    for i, name in enumerate(names):
        out[:, i] = date_part(name, known, day)
    out[missing] = np.nan
    return out


class Column(ABC):
    """One entry of the encoder's tables: cells of one input column to `width` float32 numbers.

    `parse` reads raw cells, (n,) of anything; what it returns is also what training has (float64, int32 codes into
    `levels`, or CSR arrays); `fill` writes the encoding of that into (n, width); `cell` does both for one cell.
    """

    parsed: ClassVar[str] = "number"
    """Columns with the same `parsed` of the same input share what `parse` returns."""
    width = 1

    def __init__(self, entry: Mapping[str, Any], name: str) -> None:
        self.entry, self.name = entry, name
        self.index = int(entry["column"])
        parse = entry.get("parse")
        self.read = number_reader(parse) if parse else _read_plain
        self.finite = (parse or {}).get("infinite") == "missing"

    def parse(self, values: Any) -> Any:
        return read_numbers(values, self.entry.get("parse") or {})

    @abstractmethod
    def fill(self, out: NDArray[np.float32], parsed: Any) -> None:
        """Writes (n, width)."""

    def cell(self, value: object) -> Sequence[float]:
        """The numbers of one cell, before they are rounded to float32."""
        out = np.empty((1, self.width), np.float32)
        self.fill(out, self.parse([value]))
        numbers: list[float] = out[0].tolist()
        return numbers


class Numeric(Column):
    """What the columns of plain numbers share: entries of one kind are filled many at a time.

    A table of thousands of columns would otherwise spend its time on calls of numpy for a few numbers each.
    """

    @classmethod
    @abstractmethod
    def fill_together(cls, out: NDArray[np.float32], parsed: NDArray[np.float64], entries: Sequence[Any]) -> None:
        """Writes (n, width of all) for `parsed` (len(entries), n); each entry's numbers are those of its own `fill`."""

    def fill(self, out: NDArray[np.float32], parsed: Any) -> None:
        self.fill_together(out, parsed[None], (self,))


class Number(Numeric):
    """The number itself; NaN where missing."""

    @classmethod
    def fill_together(cls, out: NDArray[np.float32], parsed: NDArray[np.float64], entries: Sequence[Number]) -> None:
        out[:] = to_float32(parsed).T

    def cell(self, value: object) -> Sequence[float]:
        return (self.read(value),)


class Shifted(Column):
    """The number minus `shift`, and with `split` what float32 lost of that, so that near values stay distinct."""

    def __init__(self, entry: Mapping[str, Any], name: str) -> None:
        super().__init__(entry, name)
        self.shift, self.split = float(entry["shift"]), bool(entry.get("split"))
        self.width = 2 if self.split else 1

    def fill(self, out: NDArray[np.float32], parsed: Any) -> None:
        moved = np.clip(parsed - self.shift, -FLOAT_MAX, FLOAT_MAX)
        out[:, 0] = moved.astype(np.float32)
        if self.split:
            out[:, 1] = (moved - out[:, 0].astype(np.float64)).astype(np.float32)

    def cell(self, value: object) -> Sequence[float]:
        moved = self.read(value) - self.shift
        if not self.split:
            return (moved,)
        moved = min(max(moved, -FLOAT_MAX), FLOAT_MAX) if moved == moved else moved
        return moved, moved - float(np.float32(moved))


class Scaled(Numeric):
    """The number centred by the median, divided by the interquartile range and squashed; 0 where missing."""

    def __init__(self, entry: Mapping[str, Any], name: str) -> None:
        super().__init__(entry, name)
        self.center, self.scale = float(entry["center"]), float(entry["scale"])

    @classmethod
    def fill_together(cls, out: NDArray[np.float32], parsed: NDArray[np.float64], entries: Sequence[Scaled]) -> None:
        centers, scales = np.array([(entry.center, entry.scale) for entry in entries]).T[:, :, None]
        out[:] = squash(parsed, centers, scales).T

    def cell(self, value: object) -> Sequence[float]:
        return (squash_one(self.read(value), self.center, self.scale),)


class Absent(Numeric):
    """1 where the number is missing."""

    @classmethod
    def fill_together(cls, out: NDArray[np.float32], parsed: NDArray[np.float64], entries: Sequence[Absent]) -> None:
        out[:] = np.isnan(parsed).T

    def cell(self, value: object) -> Sequence[float]:
        number = self.read(value)
        return (1.0,) if number != number else (0.0,)


class Date(Column):
    """Parts of a moment, each minus its `center`; with `scale` squashed, and with `absent` a last column: 1 if missing."""

    parsed = "date"

    def __init__(self, entry: Mapping[str, Any], name: str) -> None:
        super().__init__(entry, name)
        self.read = date_reader(entry.get("parse") or {})
        self.parts: list[str] = list(entry["parts"])
        self.centers = [float(value) for value in entry["center"]]
        self.scales = [float(value) for value in entry["scale"]] if entry.get("scale") else None
        self.absent = bool(entry.get("absent"))
        self.width = len(self.parts) + self.absent
        if not set(self.parts) <= set(DATE_PARTS):
            raise ValueError(f"unknown date parts in {self.parts}")

    def parse(self, values: Any) -> Any:
        return read_dates(values, self.entry.get("parse") or {})

    def fill(self, out: NDArray[np.float32], parsed: Any) -> None:
        parts, count = date_parts(parsed, self.parts), len(self.parts)
        if self.scales is None:
            out[:, :count] = to_float32(parts - np.asarray(self.centers))
        else:
            out[:, :count] = squash(parts, np.asarray(self.centers), np.asarray(self.scales))
        if self.absent:
            out[:, count] = np.isnan(parsed)

    def cell(self, value: object) -> Sequence[float]:
        seconds = self.read(value)
        if seconds != seconds:
            out = [math.nan if self.scales is None else 0.0] * len(self.parts)
            return [*out, 1.0] if self.absent else out
        seconds = min(max(seconds, -_LAST_DAY * 86400.0), _LAST_DAY * 86400.0)
        day = math.floor(seconds / 86400.0)
        out = [date_part(part, seconds, day) for part in self.parts]
        if self.scales is None:
            out = [part - center for part, center in zip(out, self.centers, strict=True)]
        else:
            out = [squash_one(*each) for each in zip(out, self.centers, self.scales, strict=True)]
        return [*out, 0.0] if self.absent else out


class Category(Column):
    """What the categorical columns share: codes into `levels`, by the canonical level strings."""

    parsed = "category"
    rare: Sequence[str] = ()

    def __init__(self, entry: Mapping[str, Any], name: str) -> None:
        super().__init__(entry, name)
        self.levels: list[str] = list(entry["levels"])
        self.rare = list(entry.get("rare") or ())
        self.codes = {level: code for code, level in enumerate([*self.levels, *self.rare])}
        self.known: dict[str, int] = self.codes

    def code(self, value: object) -> int:
        """The code of a raw cell, or UNSEEN or MISSING."""
        found = self.codes.get(value) if isinstance(value, str) else None
        if found is None:
            if isinstance(value, bytes):
                return self.code(text_of(value))
            if is_missing(value):
                return MISSING
            found = self.codes.get(level_of(value))
        return UNSEEN if found is None else found

    def parse(self, values: Any) -> Any:
        categories = getattr(getattr(values, "cat", None), "categories", None)  # pandas' own codes
        if categories is not None and hasattr(values.cat, "codes"):
            known = [self.code(value) for value in categories.tolist()]
            return np.asarray([*known, MISSING], np.int32)[np.asarray(values.cat.codes)]
        array = exact_cells(values)
        if array.dtype.kind in "biuf":
            distinct, inverse = np.unique(array, return_inverse=True)
            return np.asarray([self.code(value) for value in distinct.tolist()], np.int32)[inverse.reshape(-1)]
        raw = array.tolist()
        get = self.known.get
        try:
            found: list[Any] = [get(value) if value.__class__ is str else None for value in raw]
        except TypeError:
            found = [None] * len(raw)
        return np.asarray([self.code(raw[i]) if c is None else c for i, c in enumerate(found)], np.int32)

    def translate(self, levels: Sequence[str]) -> NDArray[np.int32]:
        """Codes of a training table (into its `levels`, -1 missing) to ours: index the result with them."""
        return np.asarray([*(self.codes.get(level, UNSEEN) for level in levels), MISSING], np.int32)


class Ordinal(Category):
    """The level's code; -1 where missing or unseen."""

    def __init__(self, entry: Mapping[str, Any], name: str) -> None:
        super().__init__(entry, name)
        self.quick: dict[Any, float] = {level: float(code) for level, code in self.codes.items()}
        self.quick[None] = -1.0
        self.quick.setdefault("", -1.0)

    def fill(self, out: NDArray[np.float32], parsed: Any) -> None:
        out[:, 0] = np.maximum(parsed, -1)

    def cell(self, value: object) -> Sequence[float]:
        return (float(max(self.code(value), -1)),)


class Target(Category):
    """Numbers learned for each level (smoothed means of the target); `other` where unseen, `missing` where missing."""

    def __init__(self, entry: Mapping[str, Any], name: str) -> None:
        super().__init__(entry, name)
        rows = [*entry["values"], entry["missing"], entry["other"]]  # codes -2 and -1 index the last two
        self.table = np.asarray(rows, np.float32)
        self.width = self.table.shape[1]
        numbers: list[list[float]] = self.table.tolist()
        self.quick: dict[Any, list[float]] = {level: numbers[code] for level, code in self.codes.items()}
        self.quick[None] = numbers[MISSING]
        self.numbers = numbers

    def fill(self, out: NDArray[np.float32], parsed: Any) -> None:
        out[:] = self.table[parsed]

    def cell(self, value: object) -> Sequence[float]:
        return self.numbers[self.code(value)]


class OneHot(Category):
    """A column for each level, one shared by the `rare` levels, one for missing (if `missing`); unseen is all zero."""

    def __init__(self, entry: Mapping[str, Any], name: str) -> None:
        super().__init__(entry, name)
        common = len(self.levels)
        self.width = common + bool(self.rare) + bool(entry.get("missing"))
        positions = [*range(common), *([common] * len(self.rare))]
        positions += [self.width - 1 if entry.get("missing") else -1, -1]  # codes MISSING and UNSEEN
        self.positions = np.asarray(positions, np.int32)
        self.quick: dict[Any, int] = {level: positions[code] for level, code in self.codes.items()}
        self.quick[None] = positions[MISSING]

    def place(self, value: object) -> int:
        """The position of a cell's 1, or -1."""
        return int(self.positions[self.code(value)])

    def places(self, parsed: Any) -> NDArray[np.int32]:
        return np.asarray(self.positions[parsed])

    def fill(self, out: NDArray[np.float32], parsed: Any) -> None:
        places = self.places(parsed)
        rows = np.flatnonzero(places >= 0)
        out[:] = 0.0
        out[rows, places[rows]] = 1.0


class Hashed(Category):
    """One of `buckets` columns by the level's CRC-32 (Weinberger et al. 2009), one for missing (if `missing`).

    `levels` are only those that would be taken for missing ("None").
    """

    parsed = "hashed"

    def __init__(self, entry: Mapping[str, Any], name: str) -> None:
        super().__init__({"levels": (), **entry}, name)
        self.buckets = int(entry["buckets"])
        if self.buckets < 1:
            raise ValueError(f"{self.buckets} buckets")
        self.width = self.buckets + bool(entry.get("missing"))
        self.quick: dict[Any, int] = {}
        self.known = {}

    def code(self, value: object) -> int:
        if is_missing(value) and not (isinstance(value, (str, bytes)) and level_of(value) in self.levels):
            return MISSING
        return self.bucket(level_of(value))

    def bucket(self, level: str) -> int:
        return zlib.crc32(level.encode("utf-8", "surrogatepass")) % self.buckets

    def translate(self, levels: Sequence[str]) -> NDArray[np.int32]:
        return np.asarray([*map(self.bucket, levels), MISSING], np.int32)

    def place(self, value: object) -> int:
        return int(self.places(self.code(value)))

    def places(self, parsed: Any) -> Any:
        return np.where(np.asarray(parsed) == MISSING, self.buckets if self.width > self.buckets else -1, parsed)

    fill = OneHot.fill


class Counts(NamedTuple):
    """Rows of a sparse matrix: CSR arrays of `width` columns."""

    indptr: NDArray[Any]
    indices: NDArray[Any]
    data: NDArray[Any]


class Text(Column):
    """log(1 + count) of the `kept` hash buckets of words and word pairs."""

    parsed = "text"

    def __init__(self, entry: Mapping[str, Any], name: str) -> None:
        super().__init__(entry, name)
        self.kept = [int(bucket) for bucket in entry["kept"]]
        self.width = len(self.kept)
        self.places = {bucket: place for place, bucket in enumerate(self.kept)}
        self.lookup = np.full(TEXT_BUCKETS, -1, np.int32)
        self.lookup[self.kept] = np.arange(self.width)

    def parse(self, values: Any) -> Any:
        return Counts(*text_counts(exact_cells(values).tolist()))

    def fill(self, out: NDArray[np.float32], parsed: Any) -> None:
        rows = np.repeat(np.arange(len(out)), np.diff(parsed.indptr))
        places = self.lookup[parsed.indices]
        kept = np.flatnonzero(places >= 0)
        out[:] = 0.0
        out[rows[kept], places[kept]] = _LOG1P_ARRAY[np.asarray(parsed.data)[kept].astype(np.int64)]

    def write(self, value: object, floats: Any, start: int) -> None:
        counts: dict[int, int] = {}
        for bucket in text_buckets(value):
            if bucket in self.places:
                counts[bucket] = counts.get(bucket, 0) + 1
        for bucket, count in counts.items():
            floats[start + self.places[bucket]] = _LOG1P[count]


class Block(Column):
    """A block of sparse numeric columns `names`, all or the `kept` ones; an absent name in a dict is zero."""

    parsed = "sparse"

    def __init__(self, entry: Mapping[str, Any], name: str, names: Sequence[str]) -> None:
        super().__init__(entry, name)
        self.kept = list(range(len(names))) if entry.get("kept") is None else [int(i) for i in entry["kept"]]
        self.names = [names[i] for i in self.kept]
        self.width = len(self.kept)
        self.places = {name: place for place, name in enumerate(self.names)}
        self.scale = [float(value) for value in entry["scale"]] if entry.get("scale") else None

    def fill(self, out: NDArray[np.float32], parsed: Any) -> None:
        """`parsed`: (n, width) float64, NaN counts as zero."""
        values = np.clip(np.nan_to_num(parsed, nan=0.0), -FLOAT_MAX, FLOAT_MAX)
        out[:] = to_float32(values if self.scale is None else values * np.asarray(self.scale))

    def pairs(self, row: Any) -> list[tuple[int, object]]:
        """(place, cell) of each of our names that the row, a dict, holds."""
        if len(row) < self.width:
            places = self.places
            return [(places[name], value) for name, value in row.items() if name in places]
        return [(place, row[name]) for name, place in self.places.items() if name in row]

    def write(self, pairs: Iterable[tuple[int, object]], floats: Any, start: int) -> None:
        """Writes one row's cells, given as (place, cell) pairs."""
        for place, value in pairs:
            number: Any = value if value.__class__ is float and not self.finite else self.read(value)
            if number != number:
                continue
            number = min(max(number, -FLOAT_MAX), FLOAT_MAX)
            if self.scale is not None:
                number = min(max(number * self.scale[place], -FLOAT_MAX), FLOAT_MAX)
            floats[start + place] = number


KINDS: dict[str, type[Column]] = {
    "number": Number,
    "ordinal": Ordinal,
    "scaled": Scaled,
    "absent": Absent,
    "shifted": Shifted,
    "target": Target,
    "date": Date,
    "onehot": OneHot,
    "hashed": Hashed,
    "text": Text,
    "sparse": Block,
}
"""The kinds of entries, in the order in which they stand in an encoder's tables."""


# --- rows and frames --------------------------------------------------------------------------------------------------

_INFINITIES = struct.pack("f", math.inf), struct.pack("f", -math.inf)
_PLAIN = (float, int)
_sqrt, _NAN = math.sqrt, math.nan
FEW_ROWS = 4
"""A pandas frame of at most so many rows is encoded row by row: that is faster than column by column."""
TOGETHER_CELLS = 65_536
"""Numbers that are encoded at a time: as float64 with their temporary copies they still lie in a core's cache."""
_NOTHING: Callable[[Any], tuple[Any, ...]] = lambda row: ()  # noqa: E731


class RowBuffer:
    """The memory of `rows` encoded rows, the first of which `RowEncoder.fill_row` writes; aligned to 64 bytes.

    `array` is its (rows, width) float32 view.
    """

    __slots__ = ("array", "bytes", "floats", "offset")

    def __init__(self, width: int, rows: int = 1) -> None:
        self.bytes = bytearray(4 * max(1, rows * width) + 64)
        self.offset = -np.frombuffer(self.bytes, np.uint8).ctypes.data % 64
        flat = np.frombuffer(self.bytes, np.float32, max(1, rows * width), self.offset)
        self.array = flat[: rows * width].reshape(rows, width)
        self.floats: Any = memoryview(flat)  # type: ignore[arg-type]


class RowEncoder:
    """Raw rows to float32 by plain tables (`Encoder.tables`): one row in a few microseconds, frames column by column.

    Both give the same bits. `width` is the number of outputs, `columns` the names of all inputs in training order (what an
    array must hold), `used` those that are needed.
    """

    def __init__(self, tables: Mapping[str, Any]) -> None:
        schema = tables["schema"]
        flat: list[str] = []
        starts: list[int] = []
        for name, kind, *names in schema:
            starts.append(len(flat))
            flat.extend(names[0] if kind == "sparse" else [name])
        self.columns = tuple(flat)
        self.entries: list[Column] = []
        self.positions: list[int] = []
        order = list(KINDS)
        for entry in tables["encode"]:
            name, _, *names = schema[entry["column"]]
            kind = KINDS[entry["as"]]
            self.entries.append(Block(entry, name, names[0]) if kind is Block else kind(entry, name))
            self.positions.append(starts[entry["column"]])
        rank = {kind: place for place, kind in enumerate(order)}
        ranks = [rank[entry["as"]] for entry in tables["encode"]]
        if ranks != sorted(ranks):
            raise ValueError("the encoder's entries are out of order")
        self.starts = [0, *itertools.accumulate(entry.width for entry in self.entries)]
        self.width = self.starts[-1]
        plain = {e.name: None for e in self.entries if type(e) is not Block}
        blocks = {name: None for e in self.entries if type(e) is Block for name in e.names}
        self.used = (*plain, *blocks)
        self._buffers: list[RowBuffer] = []
        self._compile(order, ranks)

    def runs(self, rows: int) -> Iterator[tuple[range, slice]]:
        """Neighbouring entries that are filled together for so many rows: their numbers, and their places in the output.

        Either one entry of any kind, or `Numeric` ones of one kind with at most `TOGETHER_CELLS` cells.
        """
        most = max(1, TOGETHER_CELLS // max(1, rows))
        first = 0
        for kind, alike in itertools.groupby(self.entries, type):
            end = first + sum(1 for _ in alike)
            for begin in range(first, end, most if issubclass(kind, Numeric) else 1):
                last = min(begin + most, end) if issubclass(kind, Numeric) else begin + 1
                yield range(begin, last), slice(self.starts[begin], self.starts[last])
            first = end

    def _compile(self, order: list[str], ranks: list[int]) -> None:
        """Sorts the entries into runs that `fill_cells` treats alike."""

        def of(*kinds: str) -> tuple[slice, list[Any]]:
            wanted = [i for i, rank in enumerate(ranks) if order[rank] in kinds]
            run = slice(wanted[0], wanted[-1] + 1) if wanted else slice(0, 0)
            return run, self.entries[run]

        self._numbers, numbers = of("number")
        self._ordinals, ordinals = of("ordinal")
        self._scaleds, scaleds = of("scaled")
        self._absents, absents = of("absent")
        self._others, others = of("shifted", "target", "date")
        self._places, places = of("onehot", "hashed")
        self._texts, self._text_entries = of("text")
        self._block_run, self._blocks = of("sparse")
        self._reads = [e.read for e in numbers]
        self._finite = [i for i, e in enumerate(self.entries) if e.finite and type(e) is not Block]
        self._careful = [(e.quick.get, e.cell) for e in ordinals]
        self._rest = slice(len(numbers) + len(ordinals), len(numbers) + len(ordinals) + len(scaleds + absents + others))
        self._rest_cells = [e.cell for e in (*scaleds, *absents, *others)]
        self._codes = [e.quick.get for e in ordinals]
        self._scalings = [(e.center, e.scale, e.read) for e in scaleds]
        self._other_cells = [e.cell for e in others]
        self._absent_cells = [e.cell for e in absents]
        self._onehots = [
            (e.quick.get, e.place, start) for e, start in zip(places, self.starts[self._places], strict=True)
        ]
        self.packed = sum(e.width for e in (*numbers, *ordinals, *scaleds, *absents, *others))
        self._pack = struct.Struct(f"@{self.packed}f").pack_into
        self._zeros = bytes(4 * (self.width - self.packed))
        cells = len(self.entries) - len(self._blocks)
        self._by_name = _picker([e.name for e in self.entries[:cells]])
        self._by_position = _picker(self.positions[:cells])

    # one row

    def cells(self, row: Any) -> tuple[Any, ...]:
        """The cells of a row, a dict or a sequence with all `columns`: one for each entry that isn't a block."""
        if row.__class__ is dict or hasattr(row, "keys"):
            try:
                return self._by_name(row)
            except KeyError:
                named = _named(row)
            try:
                return self._by_name(named)
            except KeyError:
                raise self._absent_names(named) from None
        if isinstance(row, (list, tuple, np.ndarray)):
            if len(row) != len(self.columns) or getattr(row, "ndim", 1) != 1:
                raise self._wrong_count(len(row), "the row")
            return self._by_position(row)
        raise DataTypeError(f"a row is a dict or a sequence in column order, not {type(row).__name__}")

    def fill_row(self, row: Any, buffer: RowBuffer) -> None:
        """Encodes one row, a dict or a sequence with all `columns`, into the buffer. Raises DataError, DataTypeError."""
        self.fill_cells(self.cells(row), buffer)
        if self._blocks:
            self.fill_blocks(row, buffer)

    def transform_row(self, row: Any) -> NDArray[np.float32]:
        """One row, a dict or a sequence in column order, as a new (1, width) array."""
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = RowBuffer(self.width)
        self.fill_row(row, buffer)
        out = buffer.array.copy()
        self._buffers.append(buffer)
        return out

    def fill_cells(self, values: Sequence[Any], buffer: RowBuffer) -> None:
        """Writes the cells, one for each entry that isn't a block; cells that need care go through `_slow`."""
        if self._finite:
            values = self._without_infinities(values)
        try:
            codes = [get(v) for get, v in zip(self._codes, values[self._ordinals], strict=True)]
            rest = [
                z / _sqrt(1.0 + z * z / 9.0) if -1e6 < z < 1e6 else 0.0 if z != z else squash_one(z, 0.0, 1.0)
                for (center, scale, read), v in zip(self._scalings, values[self._scaleds], strict=True)
                for z in (((v if v.__class__ in _PLAIN else _NAN if v is None else read(v)) - center) / scale,)
            ]
            if self._absent_cells:
                rest += [
                    0.0 if v.__class__ in _PLAIN and v == v else 1.0 if v is None else cell(v)[0]
                    for cell, v in zip(self._absent_cells, values[self._absents], strict=True)
                ]
            for cell, v in zip(self._other_cells, values[self._others], strict=True):
                rest += cell(v)
            numbers = values[self._numbers]
            if None in numbers:
                numbers = tuple([_NAN if v is None else v for v in numbers])
            self._pack(buffer.bytes, buffer.offset, *numbers, *codes, *rest)
            find = buffer.bytes.find
            if find(_INFINITIES[0]) >= 0 or find(_INFINITIES[1]) >= 0:
                self._slow(values, buffer)
        except (struct.error, TypeError, OverflowError, ValueError):
            self._slow(values, buffer)
        if self._zeros:
            self._fill_places(values, buffer)

    def _without_infinities(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """The cells with NaN for those that `Column.finite` entries read as missing."""
        found = list(values)
        for i in self._finite:
            try:
                number = self.entries[i].read(found[i])
            except CellError:  # said where the cell is read
                continue
            if number != number:
                found[i] = _NAN
        return tuple(found)

    def _slow(self, values: Sequence[Any], buffer: RowBuffer) -> None:
        """What `fill_cells` packs, with every cell read as in a batch and clipped to float32's range."""
        try:
            out = [
                v if v.__class__ is float else _NAN if v is None else read(v)
                for read, v in zip(self._reads, values[self._numbers], strict=True)
            ]
            for (get, cell), v in zip(self._careful, values[self._ordinals], strict=True):
                code = get(v) if v.__class__ is str or v is None else None
                out.append(cell(v)[0] if code is None else code)
            for cell, v in zip(self._rest_cells, values[self._rest], strict=True):
                out += cell(v)
        except CellError:
            for entry, value in zip(self.entries, values, strict=False):
                try:
                    entry.cell(value)
                except CellError as error:
                    raise DataError(f"column {shown(entry.name)}: {error}") from None
            raise
        clipped = [-FLOAT_MAX if v < -FLOAT_MAX else FLOAT_MAX if v > FLOAT_MAX else v for v in out]
        self._pack(buffer.bytes, buffer.offset, *clipped)

    def _fill_places(self, values: Sequence[Any], buffer: RowBuffer) -> None:
        """The one-hot, hashed and text columns, after the packed ones."""
        first = buffer.offset + 4 * self.packed
        buffer.bytes[first : first + len(self._zeros)] = self._zeros
        floats: Any = buffer.floats
        for (get, place, start), value in zip(self._onehots, values[self._places], strict=True):
            position = get(value) if value.__class__ is str else None
            if position is None:
                position = place(value)
            if position >= 0:
                floats[start + position] = 1.0
        if self._text_entries:
            for entry, start, value in zip(
                self._text_entries, self.starts[self._texts], values[self._texts], strict=True
            ):
                entry.write(value, floats, start)

    def fill_blocks(self, row: Any, buffer: RowBuffer) -> None:
        starts, positions = self.starts[self._block_run], self.positions[self._block_run]
        keyed = hasattr(row, "keys")
        for block, start, position in zip(self._blocks, starts, positions, strict=True):
            if not keyed:
                pairs = [(place, row[position + column]) for place, column in enumerate(block.kept)]
            else:
                pairs = block.pairs(row)
                if len(pairs) < len(row) and {*map(type, row.keys())} != {str}:
                    row = _named(row)
                    pairs = block.pairs(row)
            try:
                block.write(pairs, buffer.floats, start)
            except CellError as error:
                raise DataError(f"sparse columns {shown(block.name)}: {error}") from None

    # many rows

    def transform(self, frame: Any) -> NDArray[np.float32]:
        """(n, width) of a frame (pandas, polars, Arrow), a dict of arrays, a 2-D array or sparse matrix, or rows."""
        source = Source(frame, self)
        return self.block(source, 0, source.rows)

    def block(self, source: Source, first: int, last: int) -> NDArray[np.float32]:
        """(last - first, width): rows of an opened source."""
        out = np.empty((last - first, self.width), np.float32)
        if source.row is not None:
            buffer = RowBuffer(self.width)
            for i in range(first, last):
                try:
                    source.row(i, buffer)
                except (DataError, DataTypeError) as error:
                    raise type(error)(f"row {i}: {error}") from None
                out[i - first] = buffer.array[0]
            return out
        shared: dict[tuple[int, str], Any] = {}
        for run, place in self.runs(last - first):
            parsed = [self._parsed(i, source, first, last, shared) for i in run]
            self.fill(run, out[:, place], parsed)
        return out

    def _parsed(self, i: int, source: Source, first: int, last: int, shared: dict[tuple[int, str], Any]) -> Any:
        """The rows' cells for entry `i`; entries that read one input alike share what was read."""
        entry = self.entries[i]
        key = (entry.index, entry.parsed if entry.parsed not in ("category", "hashed") else f"{i}")
        try:
            if key not in shared:
                shared[key] = source.parse(entry, self.positions[i], first, last)
        except CellError as error:
            raise DataError(f"column {shown(entry.name)}, row {first + error.row}: {error}") from None
        return shared[key]

    def fill(self, run: range, out: NDArray[np.float32], parsed: Sequence[Any]) -> None:
        """Writes the encoding (n, width of all) of what was parsed for each entry of one of the `runs`."""
        entries = self.entries[run.start : run.stop]
        kind = type(entries[0])
        if issubclass(kind, Numeric):
            kind.fill_together(out, np.concatenate(parsed).reshape(len(parsed), len(out)), entries)
        else:
            entries[0].fill(out, parsed[0])

    def _absent_names(self, found: Iterable[Any], frame: bool = False) -> Exception:
        have = set(found)
        blocks = () if frame else {name for block in self._blocks for name in block.names}
        absent = [name for name in self.used if name not in have and name not in blocks]
        some = ", ".join(map(shown, absent[:20])) + (f" and {len(absent) - 20} more" if len(absent) > 20 else "")
        return DataError(
            f"missing column{'s' if len(absent) > 1 else ''} {some}: the model needs {len(self.used)} columns"
        )

    def _wrong_count(self, found: int, what: str) -> Exception:
        some = ", ".join(map(shown, self.columns[:8])) + (", ..." if len(self.columns) > 8 else "")
        count = len(self.columns)
        return DataError(f"{what} has {found} columns; the model was trained on {count}, in this order: {some}")


def _picker(keys: Sequence[Any]) -> Callable[[Any], tuple[Any, ...]]:
    """A function that takes `keys` of a row as a tuple, at C speed."""
    if not keys:
        return _NOTHING
    if len(keys) == 1:
        return lambda row: (row[keys[0]],)
    return itemgetter(*keys)


def _named(row: Any) -> dict[str, Any]:
    """A row, a dict or a pandas Series, by the names that its labels have as columns of a frame."""
    return {name: row[label] for name, label in labels_by_name(row.keys()).items()}


def _pandas_rows(frame: Any, width: int) -> list[list[Any]]:
    """The cells of a pandas frame of few rows, row by row, from its blocks: a quarter of what `to_numpy` takes.

    Raises AttributeError or TypeError where pandas' insides are other than known.
    """
    rows: list[list[Any]] = [[None] * width for _ in range(len(frame))]
    for block in frame._mgr.blocks:
        values, places = block.values, block.mgr_locs.as_array.tolist()
        if values.ndim == 1:
            texts = values.__class__.__name__ == "ArrowStringArray"  # whose own way to a cell takes four times as long
            for row, value in zip(rows, values._pa_array.to_pylist() if texts else values, strict=True):
                row[places[0]] = value
            continue
        for i, row in enumerate(rows):
            cells = values[:, i]
            for place, value in zip(places, cells.tolist() if cells.__class__ is np.ndarray else cells, strict=True):
                row[place] = value
    return rows


class Source:
    """Raw rows of any kind, opened: `rows` is their count; columns are parsed in slices, so memory stays bounded."""

    def __init__(self, frame: Any, encoder: RowEncoder) -> None:
        self.frame, self.encoder = frame, encoder
        self.row: Callable[[int, RowBuffer], None] | None = None
        self.names: dict[str, Any] | None = None
        names = getattr(frame, "column_names", None)  # Arrow
        names = getattr(frame, "columns", None) if names is None else names
        if names is not None:
            self._open_named(list(names), len(frame))
        elif isinstance(frame, Mapping):
            self._open_mapping(frame)
        elif isinstance(frame, (list, tuple)):
            self.rows = len(frame)
            self.row = lambda i, buffer: encoder.fill_row(frame[i], buffer)
        elif hasattr(frame, "shape"):
            self._open_array(frame)
        else:
            raise DataTypeError(
                f"rows come as a DataFrame, a dict of arrays, a 2-D array or a list of dicts, not {type(frame).__name__}"
            )

    def _open_mapping(self, frame: Mapping[Any, Any]) -> None:
        known = labels_by_name(frame)
        if any(name not in known for name in self.encoder.used):
            raise self.encoder._absent_names(known, True)
        lengths = {}
        for name in self.encoder.used or tuple(known)[:1]:
            values = frame[known[name]]
            if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
                raise DataTypeError(
                    f"column {shown(name)} is one {type(values).__name__}, not an array; one row: predict_one"
                )
            lengths[name] = len(values)
        if len(set(lengths.values())) > 1:
            (one, first), *others = lengths.items()
            other, second = next((name, count) for name, count in others if count != first)
            raise DataError(f"columns differ in length: {shown(one)} has {first} rows, {shown(other)} has {second}")
        self.rows = next(iter(lengths.values()), 0)
        self.names = known

    def _open_named(self, names: list[Any], rows: int) -> None:
        self.rows = rows
        known = labels_by_name(names)
        used = self.encoder.used
        if any(name not in known for name in used):
            raise self.encoder._absent_names(known, True)
        doubled = [name for name in used if names.count(known[name]) > 1] if len(set(names)) < len(names) else []
        if doubled:
            raise DataError(f"column {shown(doubled[0])} stands {names.count(known[doubled[0]])} times in the frame")
        self.names = known
        if 0 < rows <= FEW_ROWS and hasattr(self.frame, "iloc") and not self.encoder._blocks:
            cells, places = self.frame.to_numpy(dtype=object), {name: place for place, name in enumerate(names)}
            pick = _picker([places[known[entry.name]] for entry in self.encoder.entries])
            fill = self.encoder.fill_cells
            self.row = lambda i, buffer: fill(pick(cells[i]), buffer)

    def _open_array(self, frame: Any) -> None:
        if len(frame.shape) != 2:
            raise DataTypeError(
                f"rows come as a 2-D array, this one has {len(frame.shape)} dimensions; one row: predict_one"
            )
        if frame.shape[1] != len(self.encoder.columns):
            raise self.encoder._wrong_count(frame.shape[1], "the array")
        self.rows = int(frame.shape[0])
        if hasattr(frame, "tocsr"):
            self.frame = frame.tocsr()

    def column(self, name: str, position: int, first: int, last: int) -> Any:
        """Rows first to last of one input column, raw."""
        if self.names is None:
            found = self.frame[first:last, position]
            return found.toarray().reshape(-1) if hasattr(found, "toarray") else found
        values = self.frame[self.names[name]]
        if first == 0 and last == self.rows:
            return values
        return values.iloc[first:last] if hasattr(values, "iloc") else values[first:last]

    def parse(self, entry: Column, position: int, first: int, last: int) -> Any:
        """What `entry.parse` makes of its column's rows; (n, width) float64 for a block."""
        if type(entry) is not Block:
            return entry.parse(self.column(entry.name, position, first, last))
        if self.names is None and hasattr(self.frame, "tocsr"):
            part = self.frame[first:last][:, [position + column for column in entry.kept]]
            return without_infinities(part.toarray().astype(np.float64), entry.entry.get("parse") or {})
        out = np.empty((last - first, entry.width))
        for place, column in enumerate(entry.kept):
            values = self.column(entry.names[place], position + column, first, last)
            out[:, place] = read_numbers(values, entry.entry.get("parse") or {})
        return out


# --- the artifact -----------------------------------------------------------------------------------------------------

FORMAT = 1
"""The number of the artifact's format. How it is changed stands in `artifact.py`."""
MANIFEST, GRAPH, RECORD = "manifest.json", "model.onnx", "record.json"
MEMBERS = (MANIFEST, GRAPH, RECORD)
LARGEST = {MANIFEST: 128_000_000, GRAPH: 2_000_000_000, RECORD: 16_000_000}
"""The largest member of each name that is read, in bytes."""
RATIO = 200
"""A packed member may unpack to at most so many times its size (above one megabyte)."""
_SEAL = b',"sha256":"', b'"}'
_ZIP_SEAL = b"sha256:"
BLOCK_CELLS = 4_000_000
BLOCK_ROWS = 50_000


def seal(body: bytes, before: bytes = b"") -> bytes:
    """A JSON object with its own SHA-256 (of `before` and of the object up to there) as its last member."""
    body = body[:-1]
    return body + _SEAL[0] + hashlib.sha256(before + body).hexdigest().encode() + _SEAL[1]


def unseal(data: bytes, name: str, before: bytes = b"") -> None:
    """Raises ArtifactError unless `data` is what `seal` made; nothing is parsed."""
    size = len(_SEAL[0]) + 64 + len(_SEAL[1])
    body, tail = data[:-size], data[-size:]
    wanted = _SEAL[0] + hashlib.sha256(before + body).hexdigest().encode() + _SEAL[1]
    if tail != wanted:
        raise ArtifactError(f"{name} is corrupt: its SHA-256 does not match; get the artifact again")


def read_members(path: str | os.PathLike[str]) -> dict[str, bytes]:
    """The files of an artifact (a folder or a .zip), each checked against its SHA-256 before anything is parsed.

    Raises UsageError (no such path) and ArtifactError (whatever isn't an artifact as it was written).
    """
    place = Path(path)
    try:
        if place.is_dir():
            members = _read_folder(place)
        elif place.is_file():
            members = _read_zip(place)
        else:
            raise UsageError(f"no such artifact: {place} (a folder or a .zip file)")
    except (OSError, RuntimeError, NotImplementedError, zlib.error, EOFError) as error:
        raise ArtifactError(f"{place} cannot be read: {error}") from error
    for name in (MANIFEST, GRAPH):
        if name not in members:
            raise ArtifactError(f"{place} has no {name}: it is no artifact, or not a whole one")
    unseal(members[MANIFEST], MANIFEST)
    if RECORD in members:
        unseal(members[RECORD], RECORD, members[MANIFEST])
    return members


def _read_folder(folder: Path) -> dict[str, bytes]:
    members = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            _known(entry.name)
            if not stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
                raise ArtifactError(f"{entry.path} is no plain file (a link, a folder or a device): refused")
            with open(entry.path, "rb") as file:
                # by its size: a read of `limit` bytes takes that much address space first, which a memory cap counts
                members[entry.name] = _bounded(file, entry.name, os.fstat(file.fileno()).st_size)
    return members


def _read_zip(path: Path) -> dict[str, bytes]:
    if path.stat().st_size > sum(LARGEST.values()):
        raise ArtifactError(f"{path} is larger than any artifact ({path.stat().st_size} bytes)")
    data = path.read_bytes()
    size = len(_ZIP_SEAL) + 64
    sealed = data[-size:].startswith(_ZIP_SEAL)
    if sealed and hashlib.sha256(data[:-size]).hexdigest().encode() != data[-64:]:
        raise ArtifactError(f"{path} is corrupt: its SHA-256 does not match; get the artifact again")
    if data[:4] != b"PK\3\4":
        raise ArtifactError(f"{path} is no artifact: neither a folder nor a .zip file")
    end = data.rfind(b"PK\5\6")
    if end < 0 or len(data) < end + 22 or int.from_bytes(data[end + 10 : end + 12], "little") > len(MEMBERS):
        raise ArtifactError(f"{path} is truncated or holds other files than an artifact's: refused")
    if len(data) != end + 22 + int.from_bytes(data[end + 20 : end + 22], "little"):
        raise ArtifactError(f"{path} is truncated, or something was added to it: refused")
    import zipfile  # of no use to a folder, whose load it would make a twentieth slower

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            return _unpacked(path, packed, sealed)
    except zipfile.BadZipFile as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error


def _unpacked(path: Path, packed: Any, sealed: bool) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    if packed.comment and not sealed:
        raise ArtifactError(f"{path} is corrupt or carries a comment that is none of ours: refused")
    for info in packed.infolist():
        _known(info.orig_filename)
        mode = info.external_attr >> 16
        if info.filename in members or stat.S_IFMT(mode) not in (0, stat.S_IFREG) or info.flag_bits & 1:
            raise ArtifactError(f"{path}: member {shown(info.filename)} is double, a link or encrypted: refused")
        if info.file_size > 1_000_000 and info.file_size > RATIO * max(1, info.compress_size):
            raise ArtifactError(f"{path}: member {info.filename} unpacks to more than {RATIO} times its size: refused")
        with packed.open(info) as file:
            members[info.filename] = _bounded(file, info.filename, info.file_size)
    return members


def _known(name: str) -> None:
    if name not in MEMBERS:
        raise ArtifactError(f"{shown(name)} does not belong to an artifact (only {', '.join(MEMBERS)} do): refused")


def _bounded(file: Any, name: str, declared: int) -> bytes:
    limit = LARGEST[name]
    if declared > limit:
        raise ArtifactError(f"{name} claims {declared} bytes, at most {limit} are read: refused")
    data: bytes = file.read(declared + 1)
    if len(data) != declared:
        raise ArtifactError(f"{name} is not as large as it claims: refused")
    return data


def check_members(members: Mapping[str, bytes]) -> dict[str, Any]:
    """The parsed manifest, after the graph's size and SHA-256 are found as it says. Raises ArtifactError."""
    try:
        manifest: dict[str, Any] = json.loads(members[MANIFEST])
        number = manifest["format"]
        wanted = manifest["files"][GRAPH]
        size, digest = wanted["size"], wanted["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{MANIFEST} is not understood: {error!r}") from error
    if number != FORMAT:
        raise ArtifactError(
            f"the artifact has format {shown(number)}, this version reads {FORMAT}: use the other version"
        )
    graph = members[GRAPH]
    if len(graph) != size or hashlib.sha256(graph).hexdigest() != digest:
        raise ArtifactError(f"{GRAPH} is corrupt: its size or SHA-256 is not the manifest's; get the artifact again")
    if b"location" in graph or b"external_data" in graph:
        raise ArtifactError(f"{GRAPH} refers to data outside the artifact: refused")
    return manifest


def check(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a whole and unaltered artifact; raises ArtifactError for any other, UsageError for no such path."""
    return check_members(read_members(path))


def open_session(graph: bytes) -> Any:
    """An `onnxruntime.InferenceSession`: CPU, one thread, no spinning, no memory held in reserve.

    One thread is not only for latency: with two, the sums of a forest differ in their last bits from row to row.
    """
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


class _Onnx:
    """A graph on onnxruntime. `batch` rows are run at a time, for graphs that would round them otherwise (`artifact.py`)."""

    name = "onnx"

    def __init__(self, graph: bytes, width: int, outputs: int, batch: int) -> None:
        self._session: Any = open_session(graph)
        self._outputs, self._batch = outputs, batch
        inputs, made = self._session.get_inputs(), self._session.get_outputs()
        if [i.name for i in inputs] != ["x"] or [o.name for o in made] != ["y"]:
            raise ValueError("the graph's input is not x or its output not y")
        if inputs[0].type != "tensor(float)" or inputs[0].shape[1] != width:
            raise ValueError(f"the graph takes {inputs[0].shape}, the encoder makes {width} columns")

    def bind(self, x: NDArray[np.float32], out: NDArray[np.float32]) -> tuple[Callable[[], Any], Any]:
        """(a call that fills `out` (1, outputs) from `x` (1, width), what must be kept alive for it).

        Both are bound to the session once: no allocation and no argument checks in a call.
        """
        import onnxruntime

        session = self._session
        options, bound = onnxruntime.RunOptions(), session.io_binding()
        bound.bind_input("x", "cpu", 0, np.float32, list(x.shape), x.ctypes.data)
        bound.bind_output("y", "cpu", 0, np.float32, list(out.shape), out.ctypes.data)
        inner = getattr(session, "_sess", None)
        if inner is not None and hasattr(bound, "_iobinding"):  # one Python call less
            return partial(inner.run_with_iobinding, bound._iobinding, options), (x, out, bound)
        return partial(session.run_with_iobinding, bound, options), (x, out)

    def run(self, x: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Fills `out` (n, outputs) from `x` (n, width)."""
        if self._batch == 1:
            row, made = RowBuffer(x.shape[1]).array, np.zeros((1, self._outputs), np.float32)
            call, kept = self.bind(row, made)
            for i in range(len(x)):
                row[0] = x[i]
                call()
                out[i] = made[0]
            del kept
            return
        for i in range(0, len(x), self._batch):
            out[i : i + self._batch] = self._session.run(["y"], {"x": x[i : i + self._batch]})[0]


ENGINES = ("onnx", "compiled")
BESIDE = ("compiled", "compiled_row", "compiled_trees", "native", "program", "program_trees", "protobuf")
BESIDE_SOURCES = ("kernel.c", "kernel_row.c")
"""The modules that the compiled engine is made of, and its sources in C."""
_ALONE = "_automl_runtime_beside"


def _compiled() -> Any:
    """The module of the compiled engine: of this package, or beside this file. Raises ImportError."""
    from importlib import import_module

    if __package__:
        return import_module(".compiled", __package__)
    import sys
    from types import ModuleType

    if _ALONE not in sys.modules:
        sys.modules[_ALONE] = package = ModuleType(_ALONE)
        package.__path__ = [str(Path(__file__).resolve().parent)]
        sys.modules[f"{_ALONE}.runtime"] = this = ModuleType(f"{_ALONE}.runtime")
        this.__dict__.update(globals())  # this very file, under whatever name it was imported
    return import_module(f"{_ALONE}.compiled")


def _open_engine(graph: bytes, width: int, outputs: int, batch: int, wanted: str, asked: bool) -> Any:
    """The engine of this name; onnxruntime, with a warning, where the compiled one cannot be had and nobody `asked` for it."""
    if wanted not in ENGINES:
        raise UsageError(f"engine {shown(wanted)} is not known: it is one of {', '.join(ENGINES)}")
    if wanted == "compiled":
        try:
            module = _compiled()
            try:
                return module.Engine(graph, width, outputs)
            except module.NotLoweredError as error:
                if not asked:
                    raise
                raise ResourceError(
                    f"the compiled engine cannot run this model ({error}): use engine='onnx', or leave engine out"
                ) from None
        except ImportError as error:
            why = f"its files are not beside {Path(__file__).name} ({error})"
        except RuntimeError as error:  # NoLibraryError
            why = str(error)
        if asked:
            raise ResourceError(
                f"the compiled engine is not available: {why}; install a C compiler, or use engine='onnx'"
            )
        import warnings

        warnings.warn(
            f"the compiled engine is not available: {why}; the model runs on onnxruntime instead, with the same "
            "predictions, and slower than it was measured",
            stacklevel=4,
        )
    return _Onnx(graph, width, outputs, batch)


class _OneRow:
    """A row's memory, bound to the engine once: the encoded row, and the answer (K probabilities, or one value)."""

    __slots__ = ("answer", "buffer", "call", "encoder", "kept", "lowered", "of_dict", "others")

    def __init__(self, engine: Any, encoder: RowEncoder, outputs: int, binary: bool) -> None:
        self.encoder, self.buffer = encoder, RowBuffer(encoder.width)
        self.answer = np.zeros(outputs + binary, np.float32)
        self.others = (self.answer[1:], self.answer[:1]) if binary else None
        self.lowered = engine.lower(encoder, self.buffer, self.answer) if hasattr(engine, "lower") else None
        self.of_dict = self.lowered.of_dict if self.lowered is not None else None
        self.kept: Any = None
        if self.lowered is not None:  # which fills the whole answer
            self.call, self.others = self.lowered.encoded, None
        else:
            self.call, self.kept = engine.bind(self.buffer.array, self.answer[binary:].reshape(1, outputs))

    def predict(self, row: Any) -> None:
        """Fills the answer for a row of any kind."""
        if self.lowered is not None:
            if row.__class__ is dict:
                careful = self.lowered.of_dict(row)
            else:
                careful = self.lowered.of_tuple(self.encoder.cells(row))
            if not careful:
                return
        self.predict_carefully(row)

    def predict_carefully(self, row: Any) -> None:
        """Fills the answer for a row that Python encodes."""
        self.encoder.fill_row(row, self.buffer)
        self.run()

    def predict_cells(self, cells: tuple[Any, ...]) -> None:
        """Fills the answer for a row without blocks, given as the cells of the encoder's entries."""
        if self.lowered is None or self.lowered.of_tuple(cells):
            self.encoder.fill_cells(cells, self.buffer)
            self.run()

    def run(self) -> None:
        """Fills the answer for the encoded row."""
        self.call()
        if self.others is not None:
            np.subtract(_ONE, self.others[0], out=self.others[1])


class Model:
    """A deployed model: raw rows to predictions. Safe to use from several threads.

    `task` is "binary", "multiclass" or "regression"; `classes_` the labels in their original type (None for regression);
    `columns` the names of the inputs in training order; `used` those that it needs; `manifest` what the artifact says.
    `threads` is how many threads share the rows of a batch; `engine` is what runs the graph, "onnx" or "compiled".
    """

    def __init__(
        self, manifest: Mapping[str, Any], graph: bytes, threads: int | None = None, engine: str | None = None
    ) -> None:
        self.manifest = manifest
        self.task: str = manifest["task"]
        self.threads = min(int(manifest.get("threads", 1)), os.cpu_count() or 1) if threads is None else threads
        self._labels: list[Any] = list(manifest.get("classes") or [])
        self.classes_ = _label_array(self._labels) if self.task != "regression" else None
        self.encoder = RowEncoder(manifest["encoder"])
        self.columns, self.used = self.encoder.columns, self.encoder.used
        self._outputs = len(self._labels) if self.task == "multiclass" else 1
        if self.task not in ("binary", "multiclass", "regression") or (
            self.task == "binary" and len(self._labels) != 2
        ):
            raise ValueError(f"task {shown(self.task)} with {len(self._labels)} classes")
        batch, wanted = int(manifest.get("batch", BLOCK_ROWS)), engine or manifest.get("engine", "onnx")
        self._engine: Any = _open_engine(graph, self.encoder.width, self._outputs, batch, wanted, engine is not None)
        self.engine: str = self._engine.name
        self._free = [self._another()]
        self._by_row = self._free[0].lowered is not None  # lists of rows: a row at a time is faster than a batch then
        self._frame: tuple[Any, Callable[[Any], tuple[Any, ...]]] | None = (
            None  # a pandas index, and what is used of it
        )

    # one row

    def _one(self, row: Any) -> Any:
        """The answer for one row, a copy: (K,) probabilities or (1,) value, float32."""
        try:
            state = self._free.pop()
        except IndexError:
            state = self._another()
        try:
            if state.of_dict is None or row.__class__ is not dict:
                state.predict(row)
            elif state.of_dict(row):
                state.predict_carefully(row)
            return state.answer.copy()
        finally:
            self._free.append(state)

    def _another(self) -> _OneRow:
        """A row's memory where other threads have what there is."""
        if self._engine is None:
            raise UsageError("the model is closed")
        return _OneRow(self._engine, self.encoder, self._outputs, self.task == "binary")

    def predict_proba_one(self, row: Any) -> NDArray[np.float32]:
        """(K,) probabilities in the order of `classes_` of one row: a dict, or a sequence in column order.

        Raises DataError (a missing column, a number that isn't one), DataTypeError, UsageError (a regression model).
        """
        if self.task == "regression":
            raise UsageError("a regression model has no probabilities: use predict_one")
        return self._one(row)  # type: ignore[no-any-return]

    def predict_one(self, row: Any) -> Any:
        """The label of one row in its original type, or its value as a float."""
        out = self._one(row)
        if self.task == "regression":
            return float(out[0])
        return self._labels[int(out[1] > 0.5) if self.task == "binary" else int(out.argmax())]

    # many rows

    def _many(self, frame: Any) -> NDArray[np.float32]:
        """(n, outputs) of the graph, block by block."""
        if self._engine is None:
            raise UsageError("the model is closed")
        if hasattr(frame, "_mgr") and frame.ndim == 2 and 0 < len(frame) <= FEW_ROWS:
            few = self._few(frame)
            if few is not None:
                return few
        elif isinstance(frame, (list, tuple)) and self._by_row:
            return self._each(frame, _OneRow.predict)
        source = Source(frame, self.encoder)
        out = np.empty((source.rows, self._outputs), np.float32)
        step = max(1, min(BLOCK_ROWS, BLOCK_CELLS // max(1, self.encoder.width)))
        if self.threads > 1:
            step = max(1, min(step, -(-source.rows // self.threads)))
        blocks = [(i, min(i + step, source.rows)) for i in range(0, source.rows, step)]

        def work(block: tuple[int, int]) -> None:
            first, last = block
            self._engine.run(self.encoder.block(source, first, last), out[first:last])

        if self.threads > 1 and len(blocks) > 1:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(work, blocks))
        else:
            for block in blocks:
                work(block)
        return out

    def _few(self, frame: Any) -> NDArray[np.float32] | None:
        """`_many` of a pandas frame of few rows, the names of whose columns are looked up once; None where it must go there.

        A slice of a frame has the index of columns of that frame, as a view, which pandas' `is_` sees at once.
        """
        columns, known = frame.columns, self._frame
        if known is None or not (columns.is_(known[0]) or columns.equals(known[0])):
            if self.encoder._blocks or not all(isinstance(name, str) for name in columns):
                return None
            Source(frame, self.encoder)  # raises what there is to say of the names
            places = {name: place for place, name in enumerate(columns)}
            known = self._frame = (columns, _picker([places[entry.name] for entry in self.encoder.entries]))
        try:
            rows = _pandas_rows(frame, len(columns))
        except (AttributeError, TypeError):
            return None
        return self._each(rows, lambda state, row: state.predict_cells(known[1](row)))

    def _each(self, rows: Sequence[Any], predict: Callable[[_OneRow, Any], None]) -> NDArray[np.float32]:
        """(n, outputs), row by row."""
        out = np.empty((len(rows), self._outputs), np.float32)
        try:
            state = self._free.pop()
        except IndexError:
            state = self._another()
        answer = state.answer[-self._outputs :]
        try:
            for i, row in enumerate(rows):
                predict(state, row)
                out[i] = answer
        except (DataError, DataTypeError) as error:
            raise type(error)(f"row {i}: {error}") from None
        finally:
            self._free.append(state)
        return out

    def predict_proba(self, frame: Any) -> NDArray[np.float32]:
        """(n, K) probabilities in the order of `classes_` of a frame, a dict of arrays, a 2-D array or a list of rows."""
        if self.task == "regression":
            raise UsageError("a regression model has no probabilities: use predict")
        out = self._many(frame)
        return out if self.task == "multiclass" else np.concatenate([_ONE - out, out], axis=1)

    def predict(self, frame: Any) -> NDArray[Any]:
        """(n,) labels in their original type, or float64 values."""
        out = self._many(frame)
        if self.classes_ is None:
            return out[:, 0].astype(np.float64)
        codes = (out[:, 0] > 0.5).astype(np.intp) if self.task == "binary" else out.argmax(axis=1)
        return np.asarray(self.classes_[codes])

    def close(self) -> None:
        """Gives the engine's memory back; the model predicts no more."""
        self._free.clear()
        self._engine = None

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Model: {self.task}, {len(self.used)} of {len(self.columns)} columns>"


_ONE = np.float32(1.0)


def _label_array(labels: Sequence[Any]) -> NDArray[Any]:
    """Labels as an array of their own type; strings, and labels of more than one type, as objects."""
    kinds = {type(label) for label in labels}
    if len(kinds) == 1 and kinds <= {bool, int, float}:
        return np.asarray(labels)
    out = np.empty(len(labels), object)
    out[:] = labels
    return out


def load(path: str | os.PathLike[str], threads: int | None = None, engine: str | None = None) -> Model:
    """The model of an artifact, a folder or a .zip file; its files are checked before any of them is parsed.

    `threads` share the rows of a batch, as many as the artifact was measured with where it is None. `engine` is "onnx", "compiled", or None for the one that the artifact was measured with (onnxruntime, with a warning,
    where that is the compiled one and this machine has no C compiler). Raises UsageError (no such path or engine),
    ArtifactError (corrupt, of another format, or no artifact) and ResourceError (no compiled engine here).
    """
    members = read_members(path)
    manifest = check_members(members)
    graph = members.pop(GRAPH)
    try:
        return Model(manifest, graph, threads, engine)
    except (ImportError, MemoryError, UsageError, ResourceError):
        raise
    except Exception as error:
        raise ArtifactError(f"{path} is refused: {str(error)[:300]}") from error
