"""The ASGI application: paths, limits, authorisation, and answers that never hold a traceback.

One row takes some tens of microseconds, less than any web framework around it, so this is plain ASGI: a path is looked up in
a dict, the body goes through orjson to the runtime, and the answer's bytes come from a template. Rows that take longer than
`INLINE_SECONDS` go to a thread, so that the event loop stays free for the health checks. Requests are not gathered into
batches: measured, 16 rows at a time save 2 us a row of 100 trees and 7 us of 500, a tenth of a request or less, and
gathering them costs as much in tasks and waiting.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

import orjson

from . import openapi, protocol
from .beside import DataError, DataTypeError, runtime
from .metrics import INFER, OTHER, PREDICT, Metrics
from .model import Served

log = logging.getLogger("automl.serving")

INLINE_SECONDS = 0.02
"""What is expected to take longer than this is predicted in a thread.

A thread that predicts gives the interpreter's lock away every 5 ms (`sys.getswitchinterval`): for less than a few of those it
gains nothing, and it made requests of 6 ms wait two to four times as long as one after another (`benchmarks/server.py`)."""
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
"""They say no more than whether the server is there, and need no token."""
Headers: TypeAlias = list[tuple[bytes, bytes]]
Scope: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
_INVALID = (DataError, DataTypeError)


@dataclass(frozen=True)
class Limits:
    """Of one request, and of all at a time; what is beyond them is answered 413 and 503."""

    body_bytes: int = 16_000_000
    rows: int = 10_000
    concurrency: int = 512


class Reply(NamedTuple):
    """An answer: its status, its body, and headers beside the type and the length."""

    status: int
    body: bytes
    kind: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()


Post: TypeAlias = Callable[[bytes], Reply | Awaitable[Reply] | None]


class RefusedError(Exception):
    """A request that is answered with a 4xx or 503: `details` say which rows and fields."""

    def __init__(self, status: int, message: str, details: Any = None, headers: Any = ()) -> None:
        super().__init__(message)
        self.status, self.details, self.headers = status, details, tuple(headers)

    def reply(self) -> Reply:
        body: dict[str, Any] = {"error": str(self)}
        if self.details:
            body["details"] = self.details
        return Reply(self.status, orjson.dumps(body), headers=self.headers)


class App:
    """An ASGI application that serves `served`, which may be replaced at any time."""

    AT_ONCE_BYTES = 65_536
    """A larger body is never answered without a task of its own."""

    def __init__(
        self,
        served: Served,
        *,
        token: str | None = None,
        limits: Limits | None = None,
        counters: Metrics | None = None,
        threads: int = 1,
    ) -> None:
        self.served, self.limits, self.metrics = served, limits or Limits(), counters or Metrics()
        self.stopping = False
        self._authorization = None if token is None else b"Bearer " + token.encode()
        self._pool = ThreadPoolExecutor(threads, "predict")
        self._flight = 0
        self._posts: Mapping[str, Post] = {"/predict": self._predict}
        self._gets: Mapping[str, Callable[[], Reply]] = {
            "/": self._docs,
            "/docs": self._docs,
            "/openapi.json": lambda: Reply(200, orjson.dumps(openapi.document(self.served, self.limits))),
            "/healthz": lambda: Reply(200, b'{"status":"ok"}'),
            "/readyz": lambda: self._ready(b'{"status":"ready"}'),
            "/metrics": self._metrics,
            "/v2": lambda: Reply(200, orjson.dumps({"name": "automl-frontier", "version": "2", "extensions": []})),
            "/v2/health/live": lambda: Reply(200, b'{"live":true}'),
            "/v2/health/ready": lambda: self._ready(b'{"ready":true}'),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
            return
        began, path = perf_counter(), scope["path"]
        kind = PREDICT if path == "/predict" else INFER if path.endswith("/infer") else OTHER
        self._flight += 1
        self.metrics.flight(1)
        try:
            reply = await self._reply(scope, path, receive)
            if reply is None:  # the client has gone
                return
            length = b"%d" % len(reply.body)
            headers = [(b"content-type", reply.kind), (b"content-length", length), *reply.headers]
            await send({"type": "http.response.start", "status": reply.status, "headers": headers})
            await send({"type": "http.response.body", "body": reply.body})
            self.metrics.observe(kind, reply.status, perf_counter() - began)
        finally:
            self._flight -= 1
            self.metrics.flight(-1)

    async def _reply(self, scope: Scope, path: str, receive: Receive) -> Reply | None:
        try:
            if self._authorization is not None and path not in OPEN_PATHS:
                self._authorize(scope["headers"])
            method = scope["method"]
            post = self._posts.get(path) or self._infer_of(path)
            if post is None:
                return self._get(path, method)
            if method != "POST":
                raise _not_allowed(method, path, "POST")
            if self._flight > self.limits.concurrency:
                raise RefusedError(
                    503, f"{self.limits.concurrency} requests are being answered already: try again", None, _RETRY
                )
            body = await self._body(scope["headers"], receive)
            if body is None:
                return None
            reply = post(body)
            return reply if reply is None or isinstance(reply, Reply) else await reply
        except RefusedError as refused:
            return refused.reply()
        except Exception:
            return _failed(path)

    def at_once(self, headers: Headers, body: bytes) -> Reply | None:
        """The reply to POST /predict, counted, where it takes less than INLINE_SECONDS; None where it has to wait.

        What `__call__` does for that path, for a server that can call it without a task.
        """
        if self._flight >= self.limits.concurrency or self.served.row_seconds > INLINE_SECONDS:
            return None
        began = perf_counter()
        try:
            if self._authorization is not None:
                self._authorize(headers)
            self._check(headers)
            if len(body) > self.limits.body_bytes:
                raise _too_large(self.limits.body_bytes)
            found = self._predict(body, wait=False)
        except RefusedError as refused:
            found = refused.reply()
        except Exception:
            found = _failed("/predict")
        if isinstance(found, Reply):
            self.metrics.observe(PREDICT, found.status, perf_counter() - began)
            return found
        return None

    # what comes in

    def _authorize(self, headers: Headers) -> None:
        given = next((value for name, value in headers if name == b"authorization"), b"")
        if not hmac.compare_digest(given, self._authorization or b""):
            challenge = ((b"www-authenticate", b"Bearer"),)
            raise RefusedError(401, "this server needs its token: Authorization: Bearer TOKEN", None, challenge)

    def _check(self, headers: Headers) -> None:
        """Raises RefusedError for a body that is too large or not JSON, by what its headers say."""
        for name, value in headers:
            if name == b"content-type":
                if value != b"application/json" and not _is_json(value):
                    raise RefusedError(415, f"the body is application/json, not {value[:60].decode('latin-1')}")
            elif name == b"content-length":
                if not value.isdigit() or int(value) > self.limits.body_bytes:
                    raise _too_large(self.limits.body_bytes)
            elif name == b"content-encoding" and value != b"identity":
                raise RefusedError(
                    415, f"content encoding {value[:20].decode('latin-1')} is not taken: send plain JSON"
                )
            elif name == b"inference-header-content-length":
                raise RefusedError(400, "binary tensors are not supported: send JSON")

    async def _body(self, headers: Headers, receive: Receive) -> bytes | None:
        """The request's body, None if the client has gone. Raises RefusedError for its type or its size."""
        self._check(headers)
        limit = self.limits.body_bytes
        message = await receive()
        if message["type"] != "http.request":
            return None
        body: bytes = message["body"]
        if not message.get("more_body"):
            if len(body) > limit:
                raise _too_large(limit)
            return body
        parts, size = [body], len(body)
        while message.get("more_body"):
            message = await receive()
            if message["type"] != "http.request":
                return None
            parts.append(message["body"])
            size += len(parts[-1])
            if size > limit:
                raise _too_large(limit)
        return b"".join(parts)

    # POST

    def _predict(self, body: bytes, wait: bool = True) -> Reply | Awaitable[Reply] | None:
        """POST /predict: an object gives an object, a list of objects a list. None where it would wait and may not."""
        served = self.served
        rows = _parse(body)
        several = rows.__class__ is not dict
        if several:
            self._check_rows(rows)
        if (len(rows) if several else 1) * served.row_seconds <= INLINE_SECONDS:
            return self._many(served, rows) if several else self._one(served, rows)
        return self._in_thread(self._many if several else self._one, served, rows) if wait else None

    def _one(self, served: Served, row: dict[str, Any]) -> Reply:
        for value in row.values():
            if value.__class__ is dict or value.__class__ is list:
                self._refuse_rows(served, [row], False)
                break
        try:
            answer = served.one(row)
        except _INVALID as error:
            self._refuse_rows(served, [row], False, error)
        self.metrics.rows(1)
        return Reply(200, answer)

    def _check_rows(self, rows: Any) -> None:
        if not isinstance(rows, list):
            raise RefusedError(422, "the body is one row (an object of columns and values) or a list of rows")
        if len(rows) > self.limits.rows:
            raise RefusedError(
                413, f"{len(rows)} rows, at most {self.limits.rows} are taken in one request: send parts"
            )

    def _many(self, served: Served, rows: list[Any]) -> Reply:
        for row in rows:
            if row.__class__ is not dict or any(v.__class__ is dict or v.__class__ is list for v in row.values()):
                self._refuse_rows(served, rows, True)
                break
        try:
            answer = served.many(rows)
        except _INVALID as error:
            self._refuse_rows(served, rows, True, error)
        self.metrics.rows(len(rows))
        return Reply(200, answer)

    def _refuse_rows(self, served: Served, rows: list[Any], several: bool, error: Exception | None = None) -> None:
        """Raises the 422 that names rows and fields; what is only odd in a column that the model does not use is let be."""
        found = served.problems(rows)
        if not found and error is None:
            return
        if not found:
            raise RefusedError(422, str(error))
        first = found[0]
        where = f"row {first['row']}, " if several else ""
        field = "" if first["field"] is None else f"column {runtime.shown(first['field'])}: "
        seen = f"{first['found']} " if "found" in first else ""
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise RefusedError(422, f"{where}{field}{seen}{first['problem']}{more}", found)

    def _infer_of(self, path: str) -> Post | None:
        """What answers POST to a path v2/models/NAME[/versions/VERSION]/infer, if it is one."""
        if not path.startswith("/v2/models/") or not path.endswith("/infer"):
            return None
        served = self._named(path.removesuffix("/infer"))
        return lambda body: self._infer(served, body)

    def _infer(self, served: Served, body: bytes) -> Reply | Awaitable[Reply]:
        request = _parse(body)
        try:
            columns, rows = protocol.columns_of(served, request, self.limits.rows)
        except protocol.ProtocolError as error:
            raise _of_protocol(error) from None
        if rows * served.row_seconds > INLINE_SECONDS:
            return self._in_thread(self._infer_columns, served, request, columns, rows)
        return self._infer_columns(served, request, columns, rows)

    def _infer_columns(self, served: Served, request: Any, columns: dict[str, list[Any]], rows: int) -> Reply:
        try:
            found = protocol.answer(served, request, columns)
        except protocol.ProtocolError as error:
            raise _of_protocol(error) from None
        except _INVALID as error:
            self._refuse_rows(
                served,
                [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
                True,
                error,
            )
        self.metrics.rows(rows)
        return Reply(200, orjson.dumps(found))

    def _in_thread(self, call: Callable[..., Reply], *arguments: Any) -> Awaitable[Reply]:
        return asyncio.get_running_loop().run_in_executor(self._pool, call, *arguments)

    # GET

    def _get(self, path: str, method: str) -> Reply:
        get = self._gets.get(path)
        if get is None and path.startswith("/v2/models/"):
            ready = path.endswith("/ready")
            served = self._named(path.removesuffix("/ready"))
            if method != "GET":
                raise _not_allowed(method, path, "GET")
            return Reply(
                200, orjson.dumps({"name": served.name, "ready": True} if ready else protocol.metadata(served))
            )
        if get is None:
            raise RefusedError(404, f"no such path: {runtime.shown(path)}; /docs lists them")
        if method != "GET":
            raise _not_allowed(method, path, "GET")
        return get()

    def _named(self, path: str) -> Served:
        """The model that a path v2/models/NAME[/versions/VERSION] names. Raises a 404 for another."""
        served, (name, *rest) = self.served, path.removeprefix("/v2/models/").split("/")
        if name != served.name or rest not in ([], ["versions", served.version]):
            raise RefusedError(404, f"no such model: it is {served.name}, version {served.version}")
        return served

    def _ready(self, body: bytes) -> Reply:
        return Reply(503, b'{"error":"the server is stopping"}') if self.stopping else Reply(200, body)

    def _docs(self) -> Reply:
        policy = ((b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),)
        page = openapi.page(self.served, self.limits).encode()
        return Reply(200, page, b"text/html; charset=utf-8", policy)

    def _metrics(self) -> Reply:
        served = self.served
        info = {"name": served.name, "version": served.version, "task": served.task, "engine": served.engine}
        return Reply(200, self.metrics.text(info, served.loaded).encode(), b"text/plain; version=0.0.4; charset=utf-8")


_RETRY = ((b"retry-after", b"1"),)


def _failed(path: str) -> Reply:
    """Called where an exception is handled: its traceback goes to the log alone."""
    number = secrets.token_hex(6)
    log.exception("a request to %s failed (%s)", path, number)
    return Reply(500, orjson.dumps({"error": f"internal error; the server's log has it as {number}"}))


def _parse(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RefusedError(400, f"the body is not JSON: {error}") from None


def _is_json(kind: bytes) -> bool:
    name = kind.split(b";", 1)[0].strip().lower()
    return name == b"application/json" or (name.startswith(b"application/") and name.endswith(b"+json"))


def _too_large(limit: int) -> RefusedError:
    return RefusedError(413, f"the body is larger than {limit:,} bytes: send fewer rows in a request", None, _CLOSE)


_CLOSE = ((b"connection", b"close"),)


def _not_allowed(method: str, path: str, allowed: str) -> RefusedError:
    return RefusedError(405, f"{path} takes {allowed}, not {method[:20]}", None, ((b"allow", allowed.encode()),))


def _of_protocol(error: protocol.ProtocolError) -> RefusedError:
    return RefusedError(error.status, str(error), [error.detail] if error.detail else None)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
