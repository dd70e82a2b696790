"""`kernel.c` and `kernel_row.c` as a loaded library: compiled by the system's C compiler at first use, then kept in the user's cache.

The library runs on any processor of its architecture (the kernel looks for itself what the processor has). It lies in a
folder that only its user may enter, under a name that holds what it was made from: the source, the flags and the compiler.
Where that folder cannot be had, the library is made in a temporary one for this process alone.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import stat
import sys
import threading
from pathlib import Path
from typing import Any

from .runtime import BESIDE_SOURCES

FLAGS = ("-std=gnu99", "-O3", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-w")
COMPILERS = ("cc", "gcc", "clang")
COMPILE_SECONDS = 120.0
SOURCES = tuple(Path(__file__).with_name(name) for name in BESIDE_SOURCES)
SIZES = 7
"""How many structures the kernel tells the sizes of."""

_lock = threading.Lock()
_loaded: list[Any] = []


class NoLibraryError(RuntimeError):
    """Why there is no compiled kernel on this machine, in a sentence's second half."""


def library() -> Any:
    """The kernel as a `ctypes.CDLL`, loaded once a process. Raises NoLibraryError."""
    with _lock:
        if not _loaded:
            _loaded.append(_open())
        return _loaded[0]


def missing() -> str | None:
    """Why `library` would fail, as far as can be told without compiling; None where it should not."""
    if _loaded:
        return None
    try:
        source = _source()
    except NoLibraryError as error:
        return str(error)
    found = compiler()
    if found is None and _cached(_folder(), source) is None:
        return _no_compiler()
    return None


def ready() -> bool:
    """Whether `library` would return at once: it is loaded, or lies in the cache."""
    try:
        return bool(_loaded) or _cached(_folder(), _source(), compiler()) is not None
    except NoLibraryError:
        return False


def compiler() -> list[str] | None:
    """The command of the C compiler: $CC, else the first of cc, gcc and clang; None where there is none."""
    asked = os.environ.get("CC", "").split()
    if asked:
        found = shutil.which(asked[0])
        return [found, *asked[1:]] if found else None
    return next(([found] for name in COMPILERS if (found := shutil.which(name))), None)


def _no_compiler() -> str:
    asked = os.environ.get("CC", "")
    what = f"$CC is {asked!r}, which is not found" if asked else f"none of {', '.join(COMPILERS)} is found"
    return f"there is no C compiler ({what}) and no library that one has made before"


def _source() -> bytes:
    if os.name != "posix":
        raise NoLibraryError(f"it is not supported on {sys.platform}")
    try:
        return b"".join(path.read_bytes() for path in SOURCES)
    except OSError as error:
        raise NoLibraryError(f"{error.filename} cannot be read: {error.strerror or error}") from error


def _open() -> Any:
    source, folder, command = _source(), _folder(), compiler()
    cached = _cached(folder, source, command)
    if cached is not None:
        try:
            return _load(cached)
        except OSError:  # cut off, or made for another libc: made anew below
            pass
    if command is None:
        raise NoLibraryError(_no_compiler())
    import tempfile

    if folder is not None:
        target = folder / _name(source, command)
        try:
            handle, scratch = tempfile.mkstemp(dir=folder, prefix=".part-", suffix=".so")
            os.close(handle)
        except OSError:  # the disk is full, or read-only
            return _for_this_process(command)
        try:
            _compile(command, scratch)
            os.chmod(scratch, 0o500)
            os.replace(scratch, target)
            return _load(target)
        except OSError:  # a cache on a file system from which nothing may be executed
            return _for_this_process(command)
        finally:
            Path(scratch).unlink(missing_ok=True)
    return _for_this_process(command)


def _for_this_process(command: list[str]) -> Any:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="automl-") as place:
        target = Path(place) / "kernel.so"
        _compile(command, str(target))
        try:
            return _load(target)  # it stays loaded when its file is gone
        except OSError as error:
            raise NoLibraryError(f"the compiled library cannot be loaded: {error}") from error


def _compile(command: list[str], target: str) -> None:
    import subprocess

    try:
        done = subprocess.run(
            [*command, *FLAGS, "-o", target, *map(str, SOURCES)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMPILE_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoLibraryError(f"the C compiler {command[0]} failed: {error}") from error
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()[-1:]
        raise NoLibraryError(
            f"the C compiler {command[0]} failed: {said[0] if said else f'exit code {done.returncode}'}"
        )


def _load(path: Path) -> Any:
    loaded = ctypes.CDLL(str(path))
    if not all(hasattr(loaded, name) for name in ("kernel_run", "kernel_sizes", "row_python", "row_of_dict")):
        raise OSError(f"{path} is not the kernel")
    return loaded


def _name(source: bytes, command: list[str]) -> str:
    made_by = os.path.realpath(command[0])
    try:
        size = os.stat(made_by).st_size
    except OSError:
        size = 0
    by = hashlib.sha256(repr((made_by, size, command[1:])).encode()).hexdigest()[:8]
    return f"{_prefix(source)}-{by}.so"


def _prefix(source: bytes) -> str:
    content = hashlib.sha256(source + repr((FLAGS, sys.platform, os.uname().machine)).encode())
    return f"kernel-{content.hexdigest()[:16]}"


def _cached(folder: Path | None, source: bytes, command: list[str] | None = None) -> Path | None:
    """The library that this compiler has made, or, where there is no compiler, any that was made of this source."""
    if folder is None:
        return None
    if command is not None:
        path = folder / _name(source, command)
        return path if _trusted(path) else None
    return next((path for path in sorted(folder.glob(f"{_prefix(source)}-*.so")) if _trusted(path)), None)


def _trusted(path: Path) -> bool:
    """A plain file of this user that nobody else may write."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def _folder() -> Path | None:
    """The cache folder, made where it isn't there; None where it can't be, or is open to others."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
        folder = root / "automl-frontier"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except (OSError, RuntimeError):  # no home, or not writable
        return None
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return folder if private else None
