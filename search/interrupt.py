"""Ctrl-C and SIGTERM during a search: the first is noted and looked at where that is safe, the second goes its usual way.

A signal handler that raises does so between any two instructions, also between taking a lock and the block that frees it:
a search that was ended so could wait for ever for a lock that its own main thread had left taken.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Cancel(Protocol):
    """What a wait looks at to see whether it shall end; a `threading.Event` is one."""

    def is_set(self) -> bool: ...


class Flag:
    """An event without a lock, so that a signal handler may set it whatever the thread is doing."""

    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True

    def clear(self) -> None:
        self._set = False


@contextmanager
def noted(note: Callable[[], None]) -> Iterator[None]:
    """Within the block the first signal calls `note`, and the handler that was there without its KeyboardInterrupt.

    Later ones reach that handler alone. A signal without a handler of Python's (ignored, or the system's default) is left as
    it is, and so are all in a thread that is not the main one, which gets none.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen = Flag()

    def receive(number: int, frame: FrameType | None) -> None:
        again = seen.is_set()
        seen.set()
        if not again:
            note()
        try:
            before[number](number, frame)
        except KeyboardInterrupt:
            if again:
                raise

    found = {int(n): signal.getsignal(n) for name in SIGNALS if (n := getattr(signal, name, None)) is not None}
    before = {number: handler for number, handler in found.items() if callable(handler)}
    for number in before:
        signal.signal(number, receive)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
