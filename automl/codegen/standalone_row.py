"""The first half of an exported .py file: a row, a dict of raw cells, to the float32 numbers that the model takes."""

from __future__ import annotations

import datetime
import math
import numbers
import re
import struct
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# --- cells, read as automl.runtime reads them ------------------------------------------------------------------------

NA_STRINGS = frozenset(
    "#N/A;#N/A N/A;#NA;-1.#IND;-1.#QNAN;-NaN;-nan;1.#IND;1.#QNAN;<NA>;N/A;NA;NULL;NaN;NaT;None;n/a;nan;null".split(";")  # noqa: SIM905
)
TEXT_BUCKETS, TEXT_CHARACTERS = 1024, 10_000
FLOAT_MAX = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]
SQUASHED = 1e6
LAST_DAY = 10_000_000
EPOCH_DAYS = 719_163
UNIT_SECONDS = {"D": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def is_missing(value: object) -> bool:
    """Whether a cell is missing; a known level of a categorical column never is."""
    if value is None:
        return True
    if isinstance(value, str):
        return value in NA_STRINGS or not value or value.isspace()
    if type(value).__name__ in ("NAType", "NaTType"):
        return True
    try:
        return bool(value != value)
    except (TypeError, ValueError):
        return False


def level_of(value: object) -> str:
    """The level that a category's cell stands for: True is "True", 3 and 3.0 are "3", 0.5 is "0.5"."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool):
        return "True" if value else "False"
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Rational):
        number = float(value)
        return str(int(number)) if number.is_integer() else repr(number)
    return str(value)


def plain_number(text: str) -> float:
    if "_" in text:
        raise ValueError(text)
    return float(text)


def number_text_reader(parse: Mapping[str, Any]) -> Callable[[str], float]:
    """How a number written as text is read: words, a currency sign, "%", grouping and decimal characters."""
    words = parse.get("words") or {}
    currency, percent = parse.get("currency") or "", bool(parse.get("percent"))
    thousands, decimal = parse.get("thousands") or "", parse.get("decimal") or "."
    if not (words or currency or percent or thousands or decimal != "."):
        return plain_number
    point, comma = re.escape(decimal), re.escape(thousands)
    grouped = re.compile(rf"[+-]?\d{{1,3}}(?:{comma}\d{{2,3}})*{comma}\d{{3}}(?:{point}\d*)?\Z") if thousands else None

    def read(text: str) -> float:
        text = text.strip()
        known = words.get(text.lower()) if words else None
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
        return plain_number(text)

    return read


def number_reader(parse: Mapping[str, Any]) -> Callable[[Any], float]:
    """A cell to a float, NaN where missing; the function raises ValueError."""
    text_reader = number_text_reader(parse)
    if parse.get("infinite") == "missing":
        plain = number_reader({key: value for key, value in parse.items() if key != "infinite"})

        def read_finite(value: Any) -> float:
            number = plain(value)
            return number if math.isfinite(number) else math.nan

        return read_finite

    def read(value: Any) -> float:
        try:
            if isinstance(value, str):
                return text_reader(value)
            return float(value)
        except OverflowError:
            return math.inf if int(value) > 0 else -math.inf
        except (TypeError, ValueError):
            if is_missing(value):
                return math.nan
            raise ValueError(f"{value!r:.60} is not a number") from None

    return read


def moment_seconds(moment: datetime.datetime) -> float:
    """Epoch seconds; without a time zone the moment counts as UTC."""
    offset = moment.utcoffset()
    seconds = (moment.toordinal() - EPOCH_DAYS) * 86400 + moment.hour * 3600 + moment.minute * 60 + moment.second
    if offset is not None:
        seconds -= offset.days * 86400 + offset.seconds
    return float(seconds * 1_000_000 + moment.microsecond) / 1e6


_DATE = r"(?P<year>\d{4})(?:-(?P<month>\d\d)-(?P<day>\d\d)|-W(?P<week>\d\d)(?:-(?P<weekday>\d))?)"
_TIME = r"(?P<hour>\d\d)(?::(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<part>\d+))?)?)?"
_ZONE = r"(?P<zone>Z|(?P<sign>[+-])(?P<hours>\d\d)(?::?(?P<minutes>\d\d)(?::?(?P<seconds>\d\d))?)?)?"
_ISO = [
    re.compile(f"{date}(?:[^0-9]{time}{_ZONE})?\\Z", re.ASCII | re.DOTALL)
    for date in (_DATE, _DATE.replace("-(?P<", "(?P<").replace("-W", "W"))
    for time in (_TIME, _TIME.replace("::", ":").replace("(?::(", "(?:("))
]


def from_iso(text: str) -> datetime.datetime:
    """ISO 8601 as `datetime.fromisoformat` reads it since Python 3.11, for the older ones."""
    found = next(filter(None, (pattern.match(text) for pattern in _ISO)), None)
    if found is None:
        raise ValueError(text)
    part = found.groupdict()
    if part["week"]:
        day = datetime.date.fromisocalendar(int(part["year"]), int(part["week"]), int(part["weekday"] or 1))
    else:
        day = datetime.date(int(part["year"]), int(part["month"]), int(part["day"]))
    clock = [int(part[name] or 0) for name in ("hour", "minute", "second")]
    micro = int(((part["part"] or "") + "000000")[:6])
    zone = None
    if part["zone"]:
        ahead = [int(part[name] or 0) for name in ("hours", "minutes", "seconds")]
        offset = datetime.timedelta(hours=ahead[0], minutes=ahead[1], seconds=ahead[2])
        zone = datetime.timezone(-offset if part["sign"] == "-" else offset)
    return datetime.datetime(day.year, day.month, day.day, clock[0], clock[1], clock[2], micro, zone)


def date_reader(parse: Mapping[str, Any]) -> Callable[[Any], float]:
    """A cell to epoch seconds, NaN where missing: text by the column's format or ISO 8601, datetimes, numbers in its unit."""
    form, scale = parse.get("format"), UNIT_SECONDS[parse.get("unit") or "s"]
    iso = datetime.datetime.fromisoformat if sys.version_info >= (3, 11) else from_iso

    def read_text(text: str) -> float:
        if form is not None:
            try:
                return moment_seconds(datetime.datetime.strptime(text.strip(), form))
            except ValueError:  # ISO 8601 is understood beside the column's own format
                pass
        return moment_seconds(iso(text.strip()))

    def read(value: Any) -> float:
        try:
            if isinstance(value, str):
                return read_text(value)
            if is_missing(value):
                return math.nan
            if isinstance(value, datetime.datetime):
                return moment_seconds(value)
            if isinstance(value, datetime.date):
                return float((value.toordinal() - EPOCH_DAYS) * 86400)
            if str(getattr(value, "dtype", "")).startswith("datetime64"):
                return int(value.astype("datetime64[us]").astype("int64")) / 1e6
            if isinstance(value, numbers.Real) and not isinstance(value, bool):
                return float(value) * scale
        except (OverflowError, ValueError):
            if is_missing(value):
                return math.nan
        raise ValueError(f"{value!r:.60} is not a date") from None

    return read


def text_buckets(text: object) -> list[int]:
    """The hash buckets of a text's words and pairs of neighbouring words, lower-cased, with repeats."""
    if not isinstance(text, str):
        if is_missing(text):
            return []
        text = level_of(text)
    words = re.findall(r"\w+", text[:TEXT_CHARACTERS].lower())
    grams = words + [f"{first} {second}" for first, second in zip(words, words[1:])]
    return [crc(gram) % TEXT_BUCKETS for gram in grams]


def crc(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))


# --- columns: a cell to the numbers that the model takes --------------------------------------------------------------


def clipped(value: float) -> float:
    return -FLOAT_MAX if value < -FLOAT_MAX else FLOAT_MAX if value > FLOAT_MAX else value


def float32(value: float) -> float:
    """The number as a float32 holds it, what is beyond its range clipped to it."""
    return float(struct.unpack("<f", struct.pack("<f", clipped(value)))[0])


def squash(value: float, center: float, scale: float) -> float:
    """z / sqrt(1 + z^2 / 9) of the centred and scaled value; 0 where missing."""
    z = (value - center) / scale
    if z != z:
        return 0.0
    z = min(max(z, -SQUASHED), SQUASHED)
    return z / math.sqrt(1.0 + z * z / 9.0)


def date_part(name: str, seconds: float, day: int) -> float:
    """One part of a moment by the Gregorian calendar (H. Hinnant, "chrono-compatible low-level date algorithms")."""
    if name == "days":
        return seconds / 86400.0
    if name == "day":
        return day
    if name == "hour":
        return (seconds - day * 86400.0) // 3600.0
    if name == "weekday":
        return (day + 3) % 7
    shifted = day + 719_468
    era = shifted // 146_097
    of_era = shifted - era * 146_097
    year_of_era = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month = ((5 * of_year + 2) // 153 + 2) % 12 + 1
    year = year_of_era + era * 400 + (month <= 2)
    if name == "year":
        return year
    if name == "month":
        return month
    before = year - 1
    return day - (365 * before + before // 4 - before // 100 + before // 400 - 719_162) + 1


def date_numbers(entry: Mapping[str, Any], seconds: float) -> list[float]:
    parts, centers, scales = entry["parts"], entry["center"], entry.get("scale")
    absent = [0.0] if entry.get("absent") else []
    if seconds != seconds:
        return [0.0 if scales else math.nan] * len(parts) + [1.0 for _ in absent]
    seconds = min(max(seconds, -LAST_DAY * 86400.0), LAST_DAY * 86400.0)
    found = [float(date_part(part, seconds, math.floor(seconds / 86400.0))) for part in parts]
    if scales:
        return [squash(*each) for each in zip(found, centers, scales)] + absent
    return [part - center for part, center in zip(found, centers)] + absent


def coder(entry: Mapping[str, Any]) -> Callable[[object], int]:
    """The code of a category's cell: its level's number, -1 where unknown, -2 where missing."""
    codes = {level: code for code, level in enumerate([*entry.get("levels", ()), *entry.get("rare", ())])}

    def code(value: object) -> int:
        found = codes.get(value) if isinstance(value, str) else None
        if found is None:
            if is_missing(value):
                return -2
            found = codes.get(level_of(value))
        return -1 if found is None else found

    return code


def one(width: int, place: int) -> list[float]:
    """Zeros with a 1 at the place, if that is not negative."""
    out = [0.0] * width
    if place >= 0:
        out[place] = 1.0
    return out


def column(entry: Mapping[str, Any]) -> tuple[int, Callable[[Any], Sequence[float]]]:
    """(how many numbers, a cell to these numbers) for one entry of the encoder's tables that isn't a sparse block."""
    kind = entry["as"]
    if kind in ("number", "scaled", "absent", "shifted"):
        return numeric(kind, entry, number_reader(entry.get("parse") or {}))
    if kind == "date":
        read = date_reader(entry.get("parse") or {})
        return len(entry["parts"]) + bool(entry.get("absent")), lambda value: date_numbers(entry, read(value))
    if kind == "text":
        return len(entry["kept"]), texts({bucket: place for place, bucket in enumerate(entry["kept"])})
    return categorical(kind, entry, coder(entry))


def numeric(
    kind: str, entry: Mapping[str, Any], read: Callable[[Any], float]
) -> tuple[int, Callable[[Any], Sequence[float]]]:
    if kind == "number":
        return 1, lambda value: (read(value),)
    if kind == "absent":
        return 1, lambda value: (1.0 if math.isnan(read(value)) else 0.0,)
    if kind == "scaled":
        return 1, lambda value: (squash(read(value), entry["center"], entry["scale"]),)
    if not entry.get("split"):
        return 1, lambda value: (read(value) - entry["shift"],)

    def split(value: Any) -> Sequence[float]:
        moved = clipped(read(value) - entry["shift"])
        return moved, moved - float32(moved)

    return 2, split


def categorical(
    kind: str, entry: Mapping[str, Any], code: Callable[[object], int]
) -> tuple[int, Callable[[Any], Sequence[float]]]:
    if kind == "ordinal":
        return 1, lambda value: (float(max(code(value), -1)),)
    if kind == "target":
        rows = [*entry["values"], entry["missing"], entry["other"]]  # codes -2 and -1 are the last two
        return len(rows[0]), lambda value: rows[code(value)]
    missing = bool(entry.get("missing"))
    if kind == "onehot":
        common, rare = len(entry["levels"]), len(entry.get("rare", ()))
        width = common + bool(rare) + missing
        places = [*range(common), *([common] * rare), width - 1 if missing else -1, -1]
        return width, lambda value: one(width, places[code(value)])
    if kind == "hashed":
        buckets, kept = entry["buckets"], entry.get("levels", ())

        def hashed(value: Any) -> Sequence[float]:
            if is_missing(value) and not (isinstance(value, str) and value in kept):
                return one(buckets + missing, buckets if missing else -1)
            return one(buckets + missing, crc(level_of(value)) % buckets)

        return buckets + missing, hashed
    raise ValueError(f"{kind!r} is no kind of column that this file knows")


def texts(places: Mapping[int, int]) -> Callable[[Any], Sequence[float]]:
    def read(value: Any) -> Sequence[float]:
        counts = [0] * len(places)
        for bucket in text_buckets(value):
            if bucket in places:
                counts[places[bucket]] += 1
        return [math.log1p(count) for count in counts]

    return read


class Encoder:
    """A row, a dict of raw cells, to the list of float32 numbers that the model takes."""

    def __init__(self, tables: Mapping[str, Any]) -> None:
        self.cells: list[tuple[str, Callable[[Any], Sequence[float]]]] = []
        self.blocks: list[tuple[list[str], Sequence[float] | None, Callable[[Any], float]]] = []
        self.width = 0
        for entry in tables["encode"]:
            name, _, *names = tables["schema"][entry["column"]]
            if entry["as"] == "sparse":  # the last of the entries
                kept = range(len(names[0])) if entry.get("kept") is None else entry["kept"]
                block = [names[0][i] for i in kept]
                self.blocks.append((block, entry.get("scale"), number_reader(entry.get("parse") or {})))
                self.width += len(block)
            else:
                width, read = column(entry)
                self.cells.append((name, read))
                self.width += width
        self.columns = tuple(
            dict.fromkeys([name for name, _ in self.cells] + [name for block in self.blocks for name in block[0]])
        )

    def __call__(self, row: Mapping[str, Any]) -> list[float]:
        out: list[float] = []
        for name, read in self.cells:
            if name not in row:
                raise ValueError(f"missing column {name!r:.60}: the model needs {len(self.columns)} columns")
            try:
                out += read(row[name])
            except ValueError as error:
                raise ValueError(f"column {name!r:.60}: {error}") from None
        for names, scale, read_number in self.blocks:
            for place, name in enumerate(names):
                try:
                    number = read_number(row.get(name, 0.0))
                except ValueError as error:
                    raise ValueError(f"column {name!r:.60}: {error}") from None
                number = 0.0 if number != number else clipped(number)
                out.append(number if scale is None else number * scale[place])
        return list(struct.unpack(f"<{self.width}f", struct.pack(f"<{self.width}f", *map(clipped, out))))
