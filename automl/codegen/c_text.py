"""Data as C99 source text: literals and identifiers that no name, level or label can break out of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

LONGEST = 4_000
"""Bytes of a string literal; C99 promises 4,095. A longer text becomes an array of characters."""
WIDTH = 110
SHOWN = 60
"""Characters of a column's name that a comment shows."""
_NAME = 40
"""Characters kept of a column's name in its identifier."""
_RESERVED = """
    auto break case char const continue default do double else enum extern float for goto if inline int long register
    restrict return short signed sizeof static struct switch typedef union unsigned void volatile while
    alignas alignof asm bool complex constexpr false imaginary noreturn nullptr static_assert thread_local true typeof
    and and_eq bitand bitor catch char8_t char16_t char32_t class compl concept const_cast consteval constinit co_await
    co_return co_yield decltype delete dynamic_cast explicit export friend mutable namespace new noexcept not not_eq
    operator or or_eq private protected public reinterpret_cast requires static_cast template this throw try typeid
    typename using virtual wchar_t xor xor_eq
    assert errno far huge i386 interface isinf isnan linux near offsetof setjmp signbit small stderr stdin stdout unix
    unused va_arg va_end va_start
"""
RESERVED = frozenset(_RESERVED.split())
"""Keywords of C and C++, and words that common headers define as macros, all in lower case."""


def identifiers(names: Sequence[str]) -> list[str]:
    """A C identifier for each name, distinct, in lower-case ASCII, none a keyword or a macro of a usual header."""
    taken: set[str] = set()
    found = []
    for name in names:
        plain = re.sub(r"[^a-z0-9]+", "_", name[: 4 * _NAME].lower()).strip("_")[:_NAME].rstrip("_")
        if not plain or plain[0].isdigit():
            plain = f"column_{plain}".rstrip("_")
        base = f"{plain}_" if plain in RESERVED else plain
        free, number = base, 2
        while free in taken:
            free, number = f"{base.rstrip('_')}_{number}", number + 1
        taken.add(free)
        found.append(free)
    return found


def comment(text: str, width: int = SHOWN) -> str:
    """A text as a comment may show it: what could end the comment, or be a trigraph or an escape, is named (<U+002F>)."""
    plain = re.sub(r"[^A-Za-z0-9 .,:;=+()\[\]{}%$&@!^~|'\"_-]", lambda c: f"<U+{ord(c[0]):04X}>", text[: width + 1])
    return plain if len(plain) <= width else plain[: width - 3] + "..."


def floats(values: Iterable[Any]) -> list[str]:
    """float32 literals, the shortest decimals that read back as the same numbers."""
    return [_float(text) for text in map(str, np.asarray(values, np.float32).reshape(-1))]


def _float(text: str) -> str:
    if text[-1] in "nf":  # nan, inf, -inf
        return {"nan": "NAN", "inf": "INFINITY", "-inf": "-INFINITY"}[text]
    return f"{text}f"


def double(value: float) -> str:
    """A double literal that reads back as the same number."""
    text = repr(float(value))
    return {"nan": "NAN", "inf": "INFINITY", "-inf": "-INFINITY"}.get(text, text)


def array(declared: str, items: Sequence[str]) -> str:
    """The definition of a constant array, in lines; `declared` as in "float w" ("[]" is added)."""
    lines, line = [], "   "
    for item in items or ["0"]:  # C has no empty array
        if len(line) + len(item) > WIDTH:
            lines.append(line)
            line = "   "
        line += f" {item},"
    lines.append(line)
    return f"static const {declared}[] = {{\n" + "\n".join(lines)[:-1] + "};\n"


class Strings:
    """Texts as expressions of the type `const char *`. Long ones are defined as arrays, which `definitions` holds."""

    def __init__(self) -> None:
        self.definitions: list[str] = []

    def __call__(self, text: str) -> str:
        data = text.encode("utf-8", "surrogatepass")
        if len(data) <= LONGEST:
            return '"' + "".join(map(_character, data)) + '"'
        name = f"text_{len(self.definitions)}"
        self.definitions.append(array(f"char {name}", [*(f"'{_character(byte)}'" for byte in data), "'\\0'"]))
        return name


def _character(byte: int) -> str:
    """One byte within a string or character literal; three octal digits never run into what follows."""
    if 32 <= byte < 127 and chr(byte) not in "\"'\\?":
        return chr(byte)
    return f"\\{byte:03o}"
