"""Bytes from a path: what kind of file it is by its first bytes, decompressed, and as UTF-8 text whatever its encoding."""

from __future__ import annotations

import bz2
import codecs
import difflib
import errno
import gzip
import lzma
import os
import re
import select
import stat
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from automl.estimators.errors import AutoMLError, DataError, ResourceError, UsageError
from automl.estimators.runtime import shown

BLOCK = 1 << 20
IN_MEMORY = 64 << 20
"""Decompressed or re-encoded text up to this size stays in memory; more goes to a temporary file."""
WRITER_SECONDS = 1.0
"""How long a named pipe waits for its first writer."""
_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
)
_XZ, _PARQUET = b"\xfd7zXZ\x00", b"PAR1"
_FOREIGN = (
    (b"SQLite format 3", "an SQLite database"),
    (b"\x89HDF", "an HDF5 file"),
    (b"ARROW1", "an Arrow file"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a picture"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"\x80\x04\x95", "a pickle"),
    (b"\x80\x05\x95", "a pickle"),
)
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HIGH_RUN = re.compile(rb"[\x80-\xff]+")
_NOT_CP1252 = frozenset(b"\x81\x8d\x8f\x90\x9d\xfe\xff")
_DAMAGED = (
    gzip.BadGzipFile,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
)


@dataclass
class Source:
    """An open file: `stream` is seekable and stands at `start`; `kind` is "text" (UTF-8, no NUL byte) or "parquet".

    `notes` say what was decompressed and decoded.
    """

    name: str
    stream: IO[bytes]
    kind: str
    start: int = 0
    notes: list[str] = field(default_factory=list)

    def rewind(self) -> IO[bytes]:
        self.stream.seek(self.start)
        return self.stream


@contextmanager
def open_source(path: str | os.PathLike[str], encoding: str | None = None) -> Iterator[Source]:
    """Opens a file, "-" for standard input. Temporary files are gone when the context ends.

    Raises UsageError where there is no such file, DataError for one that is empty, damaged, binary or not decodable.
    """
    with ExitStack() as stack:
        name = "standard input" if str(path) == "-" else str(path)
        stream = _open(path, stack)
        notes: list[str] = []
        for _ in range(2):  # a compressed file may hold a compressed one
            packing = _packing(stream)
            if packing:
                stream = _unpacked(stream, packing, name, stack)
                notes.append(f"{name} is {packing} compressed.")
        head = _head(stream, 16)
        if not head:
            raise DataError(f"{name} is empty")
        if head.startswith(_PARQUET):
            yield Source(name, stream, "parquet", notes=notes)
            return
        for magic, what in _FOREIGN:
            if head.startswith(magic):
                raise DataError(f"{name} is {what}: give a CSV or Parquet file")
        source = Source(name, stream, "text", notes=notes)
        _decode(source, head, encoding, stack)
        yield source


def _head(stream: IO[bytes], count: int) -> bytes:
    stream.seek(0)
    head = stream.read(count)
    stream.seek(0)
    return head


def _blocks(stream: IO[bytes]) -> Iterator[bytes]:
    while block := stream.read(BLOCK):
        yield block


def _spool(blocks: Iterator[bytes], name: str, stack: ExitStack) -> IO[bytes]:
    """The blocks as a seekable stream. Raises ResourceError when the disk is full."""
    spool: Any = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - closed by the stack
    stack.callback(spool.close)
    try:
        for block in blocks:
            spool.write(block)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                f"no room in {tempfile.gettempdir()} to unpack {name}: set TMPDIR to a larger disk"
            ) from None
        raise
    spool.seek(0)
    return spool  # type: ignore[no-any-return]


# --- the bytes as they lie ------------------------------------------------------------------------------------------------------


def _open(path: str | os.PathLike[str], stack: ExitStack) -> IO[bytes]:
    if str(path) == "-":
        return _spool(_blocks(sys.stdin.buffer), "standard input", stack)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise UsageError(f"{path} is a folder: give one CSV or Parquet file")
        if stat.S_ISFIFO(mode):
            return _spool(_pipe_blocks(path), str(path), stack)
        if not stat.S_ISREG(mode):
            raise UsageError(f"{path} is a device or socket, no file")
        return stack.enter_context(open(path, "rb"))
    except AutoMLError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"no such file: {path}{_near(Path(path))}") from None
    except PermissionError:
        raise UsageError(f"{path} may not be read: check its permissions") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{shown(str(path))} cannot be opened: {error}") from None


def _near(path: Path) -> str:
    try:
        names = [entry.name for entry in os.scandir(path.parent or ".") if entry.is_file()]
    except OSError:  # the folder is not there either
        return ""
    near = difflib.get_close_matches(path.name, names, 1)
    return f" (did you mean {path.parent / near[0]}?)" if near else ""


def _pipe_blocks(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """What is written into a named pipe; DataError where nobody has it open for writing."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        waited = bool(poll.poll(WRITER_SECONDS * 1000))
        begun = False
        while True:
            try:
                block = os.read(descriptor, BLOCK)
            except BlockingIOError:  # a writer is there and has written nothing yet
                poll.poll()
                continue
            if not block:
                if not begun and not waited:
                    raise DataError(f"{path} is a pipe that nobody writes to")
                return
            begun = True
            yield block
    finally:
        os.close(descriptor)


def _packing(stream: IO[bytes]) -> str:
    head = _head(stream, 8)
    if head.startswith(_XZ):
        return "xz"
    return next((name for magic, name in _MAGIC if head.startswith(magic)), "")


def _unpacked(stream: IO[bytes], packing: str, name: str, stack: ExitStack) -> IO[bytes]:
    opened: dict[str, Callable[[IO[bytes]], Any]] = {
        "gzip": lambda s: gzip.GzipFile(fileobj=s, mode="rb"),
        "bzip2": bz2.BZ2File,
        "xz": lzma.LZMAFile,
        "zip": lambda s: _only_member(zipfile.ZipFile(s), name),
        "zstd": lambda s: _zstd(s, name),
    }
    try:
        return _spool(_blocks(opened[packing](stream)), name, stack)
    except _DAMAGED as error:
        raise DataError(f"{name} is a damaged {packing} file: {error}") from None
    except OSError as error:  # bz2 has no error class of its own
        if error.errno is None:
            raise DataError(f"{name} is a damaged {packing} file: {error}") from None
        raise


def _only_member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    members = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX/")]
    if any(m.filename == "[Content_Types].xml" for m in members):
        raise DataError(f"{name} is an Excel workbook or other office document: save the sheet as CSV")
    if len(members) != 1:
        raise DataError(
            f"{name} is a zip of {len(members)} files ({', '.join(shown(m.filename) for m in members[:5])}): one is needed"
        )
    if members[0].flag_bits & 1:
        raise DataError(f"{name} is an encrypted zip: unpack it first")
    return archive.open(members[0])


def _zstd(stream: IO[bytes], name: str) -> Any:
    try:
        import zstandard
    except ImportError:
        raise ResourceError(f'{name} is zstd compressed; to read it: pip install "automl-frontier[zst]"') from None

    def blocks() -> Iterator[bytes]:
        frame = zstandard.ZstdDecompressor().decompressobj()
        whole = False
        try:
            for block in _blocks(stream):
                while block:
                    if whole:  # another frame follows
                        frame = zstandard.ZstdDecompressor().decompressobj()
                    yield frame.decompress(block)
                    whole = frame.eof
                    block = frame.unused_data if whole else b""
        except zstandard.ZstdError as error:
            raise DataError(f"{name} is a damaged zstd file: {error}") from None
        if not whole:
            raise DataError(f"{name} is a damaged zstd file: it ends too early")

    return _Blocks(blocks())


class _Blocks:
    """A read-only stream over an iterator of blocks."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks

    def read(self, _: int) -> bytes:
        return next(filter(None, self._blocks), b"")


# --- the bytes as text --------------------------------------------------------------------------------------------------------------


def _decode(source: Source, head: bytes, encoding: str | None, stack: ExitStack) -> None:
    """Makes `source` UTF-8 without NUL bytes, or raises DataError with line and byte offset."""
    found = next(((bom, name) for bom, name in _BOMS if head.startswith(bom)), None)
    if encoding is not None:
        try:
            chosen = codecs.lookup(encoding).name
            "".encode(chosen)
        except (LookupError, ValueError):
            raise UsageError(
                f"encoding {shown(encoding)} is not known: utf-8, utf-16, cp1252 and latin-1 are"
            ) from None
        chosen = "utf-8" if chosen == "utf-8-sig" else chosen
    else:
        chosen = found[1] if found else "utf-8"
    if found and found[1] == "utf-8" and chosen == "utf-8":
        source.start = len(found[0])
        source.notes.append(f"{source.name} begins with a UTF-8 byte-order mark, which is skipped.")
    if chosen != "utf-8":
        source.notes.append(f"{source.name} is read as {chosen}.")
        _recode(source, chosen, stack)
    bad = _first_fault(source.rewind(), source.start)
    if bad is not None and encoding is None and bad[1] != "NUL" and _is_cp1252(source.stream, bad[0]):
        source.notes.append(f"{source.name} is not UTF-8: it is read as cp1252 (--encoding overrides).")
        _recode(source, "cp1252", stack)
        bad = _first_fault(source.rewind(), source.start)
    if bad is not None:
        offset, what = bad
        where = f"{source.name}, line {_line_at(source, offset)}, byte offset {offset}"
        if what == "NUL":
            raise DataError(
                f"{where}: a NUL byte; this is no text file, or it is UTF-16 without a byte-order mark (--encoding utf-16)"
            )
        raise DataError(
            f"{where}: the byte {what} is not valid UTF-8; name the file's encoding (--encoding) or repair it"
        )
    source.rewind()


def _recode(source: Source, encoding: str, stack: ExitStack) -> None:
    """Puts the text of `source` into UTF-8."""

    def blocks() -> Iterator[bytes]:
        decoder = codecs.getincrementaldecoder(encoding)("strict")
        source.stream.seek(0)
        done = 0
        for block in _and_end(_blocks(source.stream)):
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                offset = done - pending + error.start
                line = _line_at(source, offset)
                raise DataError(
                    f"{source.name}, line {line}, byte offset {offset}: not valid {encoding} ({error.reason}); name the file's encoding (--encoding)"
                ) from None
            done += len(block)
            yield text.encode("utf-8", "surrogatepass")

    stream = _spool(blocks(), source.name, stack)
    source.stream, source.start = stream, 0
    if _head(stream, 3) == codecs.BOM_UTF8:
        source.start = 3


def _and_end(blocks: Iterator[bytes]) -> Iterator[bytes]:
    yield from blocks
    yield b""


def _first_fault(stream: IO[bytes], start: int) -> tuple[int, str] | None:
    """(offset, "NUL" or the byte) of the first byte that is not UTF-8 text, or None."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    done = start
    for block in _and_end(_blocks(stream)):
        nul = block.find(b"\0")
        pending = len(decoder.getstate()[0])
        if pending or not block.isascii():
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                offset = done - pending + error.start
                if nul < 0 or offset < done + nul:
                    return offset, f"0x{error.object[error.start]:02X}"
        if nul >= 0:
            return done + nul, "NUL"
        done += len(block)
    return None


def _is_cp1252(stream: IO[bytes], first: int) -> bool:
    """Whether the bytes around the first one that is not UTF-8 look like Western text in one byte a letter.

    They do not where some multi-byte UTF-8 stands among them, or where an accented letter has no letter beside it.
    """
    start = max(0, first - BLOCK)
    stream.seek(start)
    window = stream.read(4 * BLOCK)
    for count, run in enumerate(_HIGH_RUN.finditer(window)):
        if count == 10_000:
            break
        high = run.group()
        if len(high) > 1 and run.start() > 0 and run.end() < len(window):
            try:
                high.decode("utf-8")
                return False
            except UnicodeDecodeError:
                pass  # as expected of cp1252
        if _NOT_CP1252.intersection(high):
            return False
        beside = window[max(0, run.start() - 1) : run.start()] + window[run.end() : run.end() + 1]
        accented = all(byte >= 0xC0 for byte in high)
        if accented and len(high) < 3 and not any(chr(byte).isalpha() for byte in beside if byte < 0x80):
            return False
    return True


def _line_at(source: Source, offset: int) -> int:
    """The 1-based line of a byte offset."""
    source.stream.seek(0)
    before = 0
    lines = 1
    for block in _blocks(source.stream):
        part = block[: max(0, offset - before)]
        lines += part.count(b"\n") or part.count(b"\r")
        before += len(block)
        if before >= offset:
            break
    return lines
