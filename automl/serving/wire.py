"""uvicorn's HTTP/1.1 connection, with a short way for the one request that matters: POST /predict of a few rows.

Measured, a row takes about 10 us to predict and uvicorn about 40 us a request: a task, an event, timers and messages for an
application that might wait. One that need not wait is answered here, as soon as its last byte is parsed; whatever else comes
goes the usual way (`App.__call__`), and gives the same answers.
"""

from __future__ import annotations

import time
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from .app import App, Reply

MOST_HEAD_BYTES = 65_536
"""Of a request's line and headers, and as much between two parts of its body: uvicorn's parser has no limit of its own."""
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Connection(HttpToolsProtocol):
    """One client's connection. `requests` counts what it began, `quiet_since` is when the last was answered here.

    `unsent` are the bytes of answers that it had yet to take at the last look, `unsent_since` when they last became fewer.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.parser: Any  # None only once the connection is lost
        self.short = self.app if isinstance(self.app, App) and not self.access_log else None
        self.parts: list[bytes] | None = None
        self.size = self.requests = self.unsent = 0
        self.unsent_since = 0.0
        self.quiet_since: float | None = None
        self.closing = False
        self.unread = 0
        self._dated: Any = None
        self._start = b""

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, and closes the connection of a client whose line and headers do not end."""
        self.unread += len(data)
        super().data_received(data)
        if self.unread > MOST_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    # parser callbacks

    def on_message_begin(self) -> None:
        self.url, self.expect_100_continue, self.headers = b"", False, []
        self.requests += 1
        self.quiet_since = None

    def on_headers_complete(self) -> None:
        self.unread = 0
        if (
            self.url == b"/predict"
            and self.short is not None
            and self.parser.get_method() == b"POST"
            and (self.cycle is None or self.cycle.response_complete)
            and not (self.pipeline or self.flow.write_paused or self.expect_100_continue)
            and self.parser.get_http_version() == "1.1"
            and not self.parser.should_upgrade()
        ):
            self.parts, self.size = [], 0
        else:
            self._usual_way()

    def on_body(self, body: bytes) -> None:
        self.unread = 0
        if self.parts is None:
            super().on_body(body)
            return
        self.parts.append(body)
        self.size += len(body)
        if self.size > App.AT_ONCE_BYTES:
            self._hand_over()

    def on_message_complete(self) -> None:
        self.unread = 0
        if self.parts is None:
            super().on_message_complete()
            return
        assert self.short is not None
        body = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        reply = self.short.at_once(self.headers, body)
        if reply is None:
            self._hand_over()
            super().on_message_complete()
            return
        self.parts = None
        self._write(reply)

    def _hand_over(self) -> None:
        """What has come of the request so far goes the usual way, and so does the rest."""
        parts, self.parts = self.parts or [], None
        self._usual_way()
        for part in parts:
            super().on_body(part)

    def _usual_way(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()
        if self.closing:
            self.cycle.keep_alive = False

    def _write(self, reply: Reply) -> None:
        headers = self.server_state.default_headers
        if headers is not self._dated:  # once a second
            self._dated = headers
            self._start = b"".join(b"%b: %b\r\n" % pair for pair in headers)
        last = self.closing or not self.parser.should_keep_alive()
        more = b"".join(b"%b: %b\r\n" % pair for pair in reply.headers) if reply.headers else b""
        if last and b"connection:" not in more:
            more += b"connection: close\r\n"
        self.transport.write(
            b"%b%bcontent-type: %b\r\ncontent-length: %d\r\n%b\r\n%b"
            % (STATUS_LINE[reply.status], self._start, reply.kind, len(reply.body), more, reply.body)
        )
        self.server_state.total_requests += 1
        self.quiet_since = time.monotonic()
        if b"connection: close" in more:
            self.transport.close()

    # the ends

    def send_400_response(self, msg: str) -> None:
        """A request that is no HTTP."""
        if self.transport.is_closing():
            return
        self.parts, self.closing = None, True
        body = b'{"error":"this is no valid HTTP request"}'
        self.transport.write(
            b"%bcontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (STATUS_LINE[400], len(body), body)
        )
        self.transport.close()

    def shutdown(self) -> None:
        """The server is stopping: a request that has begun is still answered."""
        if self.parts is not None:
            self.closing = True
        else:
            super().shutdown()

    def stuck(self, now: float, most: float) -> bool:
        """Whether the client has taken none of the answers that wait for it for `most` seconds."""
        before, self.unsent = self.unsent, self.transport.get_write_buffer_size()
        if not before or self.unsent < before:
            self.unsent_since = now
        return self.unsent > 0 and now - self.unsent_since >= most

    def overdue(self, now: float, idle: float, began: dict[Any, tuple[int, float]], most: float) -> bool:
        """Whether the client has been silent for `idle` seconds between requests, or at sending one for `most`.

        `began` holds the requests that were being sent at the last look, and since when.
        """
        if self.quiet_since is not None:
            return now - self.quiet_since > idle
        cycle = self.cycle
        if self.parts is None and cycle is not None:
            if not cycle.response_complete and not cycle.more_body:
                return False  # it waits for us
            if cycle.response_complete and self.timeout_keep_alive_task is not None:
                return False  # uvicorn counts
        number, since = began.get(self, (-1, now))
        if number != self.requests:
            since = now
        began[self] = (self.requests, since)
        return now - since >= most
