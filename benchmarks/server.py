"""`automl serve` under load on loopback, beside a FastAPI and pydantic endpoint of the same model in the same run.

    python benchmarks/server.py [--artifact served/] [--rounds 5] [--seconds 5] [--peer PYTHON] [--model "500x31"]

Needs wrk (https://github.com/wg/wrk). `--peer` is a Python that has fastapi, uvicorn[standard], numpy and onnxruntime (default: this
one; without them the comparison is left out, and said so). Without an artifact a LightGBM of `--model` trees x leaves is
fitted on made-up rows of 30 mixed columns. The endpoints take turns, round by round, each with one process, over 400 rows
in turn; then the artifact is swapped `--swaps` times under load; then requests come at a fixed rate, to compare the
queueing model of `automl size` with what is measured. Prints Markdown: medians over the rounds, with the least and the most.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

LUA = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local bodies = {}
for line in io.lines(%s) do bodies[#bodies + 1] = line end
local at = 0
request = function()
  at = at %% #bodies + 1
  return wrk.format(nil, nil, nil, bodies[at])
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('{"requests": %%d, "seconds": %%f, "errors": %%d, "mean": %%f, "p50": %%f, "p99": %%f}\\n',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency.mean / 1e6, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6))
end
"""


def fitted(folder: Path, shape: str, seed: int = 0) -> tuple[Path, list[dict[str, Any]]]:
    """(a LightGBM of `shape` trees x leaves on 20 numbers and 10 categories, 400 rows for it)."""
    import pandas as pd

    from automl.estimators.encoder import View
    from automl.estimators.families.lightgbm import LightGBM
    from automl.estimators.pipeline import Pipeline
    from automl.estimators.table import from_frame

    rng, rows = np.random.default_rng(seed), 20_000
    frame = pd.DataFrame({f"n{i:02d}": rng.normal(size=rows).round(4) for i in range(20)})
    for i in range(10):
        frame[f"c{i:02d}"] = rng.choice([f"level {k}" for k in range(2 + 5 * i)], rows)
    score = frame["n00"] + frame["n01"] * frame["n02"] + (frame["c03"] == "level 1") + rng.normal(size=rows)
    frame = frame.mask(rng.random(frame.shape) < 0.05)
    table = from_frame(frame, np.where(score > 0, "yes", "no"), task="binary")
    trees, leaves = map(int, shape.split("x"))
    params = {"n_estimators": trees, "num_leaves": leaves, "learning_rate": 0.1}
    every = np.arange(rows)
    Pipeline(LightGBM(), params, view=View()).fit(table, every).export(folder, table, every)
    some = frame.head(400).astype(object).to_dict("records")
    return folder, [{str(k): None if v != v else v for k, v in row.items()} for row in some]


def rows_of(artifact: Path) -> list[dict[str, Any]]:
    from automl.estimators.runtime import load
    from automl.serving.schema import fields_of, sample_rows

    with load(artifact) as model:
        return sample_rows(fields_of(model), 400)


@contextlib.contextmanager
def process(command: list[str], url: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server, from when it answers at `url`."""
    with subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, cwd=ROOT / "benchmarks"
    ) as running:
        try:
            end = time.monotonic() + 30
            while True:
                try:
                    urllib.request.urlopen(url, timeout=5).close()
                    break
                except OSError:
                    if running.poll() is not None or time.monotonic() > end:
                        raise SystemExit(f"{command[0]} does not answer at {url}") from None
                    time.sleep(0.05)
            yield running
        finally:
            running.terminate()
            running.wait(40)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def load_test(url: str, script: Path, concurrency: int, seconds: float) -> dict[str, float]:
    """wrk's figures: requests, seconds, errors, and latencies in seconds."""
    command = ["wrk", "-t1", f"-c{concurrency}", f"-d{seconds:g}s", "--timeout", "10s", "-s", str(script), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=True)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def spread(values: list[float], form: str) -> str:
    low, middle, high = (format(v, form) for v in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


def report(name: str, runs: list[dict[str, float]]) -> str:
    cells = [
        name,
        spread([r["requests"] / r["seconds"] for r in runs], ",.0f"),
        spread([1e3 * r["mean"] for r in runs], ".2f"),
        spread([1e3 * r["p99"] for r in runs], ".2f"),
        spread([r["p99"] / r["mean"] for r in runs], ".2f"),
        f"{sum(r['requests'] for r in runs):,.0f}",
        f"{sum(r['errors'] for r in runs):,.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def swapped(place: Path, script: Path, arguments: Any) -> str:
    """The artifact replaced `--swaps` times by another one while wrk runs."""
    folder = place.parent / "live"
    for name in ("a", "b"):
        shutil.copytree(place, folder / name)
    (folder / "b" / "record.json").unlink(missing_ok=True)
    link, port = folder / "now", free_port()
    link.symlink_to("a")
    command = [sys.executable, "-m", "automl", "serve", str(link), "--port", str(port), "--quiet"]
    with process(command, f"http://127.0.0.1:{port}/readyz", PYTHONPATH=str(ROOT)) as server:
        seconds = 1.0 + 0.5 * arguments.swaps
        wrk = [
            "wrk",
            "-t1",
            f"-c{arguments.concurrency}",
            f"-d{seconds:g}s",
            "-s",
            str(script),
            f"http://127.0.0.1:{port}/predict",
        ]
        with subprocess.Popen(wrk, stdout=subprocess.PIPE, text=True) as running:
            time.sleep(0.5)
            for i in range(arguments.swaps):
                (folder / "next").symlink_to("ba"[i % 2])
                os.replace(folder / "next", link)
                server.send_signal(signal.SIGHUP)
                time.sleep(0.45)
            out, _ = running.communicate(timeout=60)
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    found = json.loads(out.strip().splitlines()[-1])
    counters = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return (
        f"{counters['automl_swaps_total']} swaps under load at concurrency {arguments.concurrency}: {found['requests']:,} requests, "
        f"{found['errors']} errors seen by wrk, {counters['automl_errors_total']} by the server, "
        f"p99 {1e3 * found['p99']:.2f} ms, p99 / mean {found['p99'] / found['mean']:.2f}"
    )


def peer_works(python: str) -> bool:
    ask = "import fastapi, pydantic, uvicorn, uvloop, httptools, onnxruntime"
    return subprocess.run([python, "-c", ask], capture_output=True, check=False).returncode == 0


def compared(place: Path, script: Path, arguments: Any) -> list[str]:
    """The table of all endpoints, their rounds taking turns."""
    ours, theirs = free_port(), free_port()
    serve = [sys.executable, "-m", "automl", "serve", str(place), "--port", str(ours), "--quiet"]
    runs: dict[str, list[dict[str, float]]] = {"automl serve": []}
    urls = {"automl serve": f"http://127.0.0.1:{ours}/predict"}
    with contextlib.ExitStack() as stack:
        stack.enter_context(process(serve, f"http://127.0.0.1:{ours}/readyz", PYTHONPATH=str(ROOT)))
        if peer_works(arguments.peer):
            command = [arguments.peer, "-m", "uvicorn", "server_peer:app", "--port", str(theirs), "--no-access-log"]
            command += ["--log-level", "warning"]
            environment = {"ARTIFACT": str(place), "RUNTIME": str(ROOT / "estimators")}
            stack.enter_context(process(command, f"http://127.0.0.1:{theirs}/docs", **environment))
            urls["FastAPI, async def"] = f"http://127.0.0.1:{theirs}/predict"
            urls["FastAPI, def"] = f"http://127.0.0.1:{theirs}/predict_sync"
        else:
            print(f"{arguments.peer} has no fastapi: the comparison is left out", file=sys.stderr)
        for url in urls.values():
            load_test(url, script, arguments.concurrency, 1)  # warm
        for _ in range(arguments.rounds):
            for name, url in urls.items():
                runs.setdefault(name, []).append(load_test(url, script, arguments.concurrency, arguments.seconds))
    lines = [report(name, found) for name, found in runs.items()]
    for name in list(runs)[1:]:
        ratios = [
            (a["requests"] / a["seconds"]) / (b["requests"] / b["seconds"])
            for a, b in zip(runs["automl serve"], runs[name], strict=True)
        ]
        lines.append(f"\nRequests/s of automl serve over {name}, round by round: {spread(ratios, '.2f')}")
    return lines


# -- the queueing model ------------------------------------------------------------------------------------------------


async def _open_loop(port: int, bodies: list[bytes], rate: float, seconds: float, rng: Any) -> list[float]:
    """Latencies, from when each request was due: arrivals at random at `rate` a second, however slow the answers are."""
    free: list[Any] = []
    latencies: list[float] = []

    async def one(due: float, body: bytes) -> None:
        reader, writer = free.pop() if free else await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n", 1)[0])
        await reader.readexactly(length)
        latencies.append(time.perf_counter() - due)
        free.append((reader, writer))

    due, tasks = time.perf_counter(), set()
    end = due + seconds
    while due < end:
        due += rng.exponential(1.0 / rate)
        wait = due - time.perf_counter()
        await asyncio.sleep(max(0.0, wait))
        task = asyncio.ensure_future(one(due, bodies[len(latencies) % len(bodies)]))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    for _, writer in free:
        writer.close()
    return latencies


def _one_after_another(port: int, bodies: list[bytes], count: int) -> list[float]:
    import http.client

    times = []
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        for i in range(count):
            began = time.perf_counter()
            connection.request("POST", "/predict", bodies[i % len(bodies)], {"Content-Type": "application/json"})
            connection.getresponse().read()
            times.append(time.perf_counter() - began)
    return times


def queued(place: Path, rows: list[dict[str, Any]], arguments: Any) -> list[str]:
    """Measured waiting beside what M/G/1 says of one worker.

    A request holds TOGETHER rows here, several milliseconds of work: on two cores, of which the client needs one, the system
    may wake either of them a millisecond late. The service is the server's own CPU time at each rate (a core that mostly
    rests is slower), spread as one request after another is. What else a request takes, of which most is the client's own
    lateness, is measured where hardly any request waits, and taken off.
    """
    import uvloop

    from automl.queueing import Service, mean_wait, response

    port, rng = free_port(), np.random.default_rng(0)
    bodies = [json.dumps([rows[(k + i) % len(rows)] for i in range(TOGETHER)]).encode() for k in range(0, 400, 10)]
    command = [sys.executable, "-m", "automl", "serve", str(place), "--port", str(port), "--quiet"]
    lines = ["| requests/s | busy | mean wait ms | M/G/1 | p99 ms | M/G/1 |", "|---|---|---|---|---|---|"]
    with process(command, f"http://127.0.0.1:{port}/readyz", PYTHONPATH=str(ROOT)) as server:

        def at(rate: float) -> tuple[Any, float]:
            before = cpu_seconds(server.pid)
            times = uvloop.run(_open_loop(port, bodies, rate, QUEUE_SECONDS, rng))
            return np.asarray(times), (cpu_seconds(server.pid) - before) / len(times)

        idle = np.asarray(_one_after_another(port, bodies, 800))  # warm, and none waits
        p50, p99 = np.percentile(idle, (50, 99))

        def service(cpu: float) -> Service:
            return Service(float(p50 / idle.mean() * cpu), float(p99 / idle.mean() * cpu))

        gc.collect()
        gc.freeze()
        gc.disable()  # a collection would hold the client, and count as waiting
        rate = 0.05 / idle.mean()
        times, cpu = at(rate)
        beside = times.mean() - cpu - mean_wait(1, rate, service(cpu))
        for busy in (0.3, 0.5, 0.7):
            rate = busy / idle.mean()
            times, cpu = at(rate)
            seen = times.mean() - cpu - beside, np.percentile(times, 99)
            told = mean_wait(1, rate, service(cpu)), response(1, rate, service(cpu)) + beside
            shown = " | ".join(f"{1e3 * value:.2f}" for pair in zip(seen, told, strict=True) for value in pair)
            lines.append(f"| {rate:,.0f} | {rate * cpu:.0%} | {shown} |")
        gc.enable()
    lines.append(
        f"\nRequests of {TOGETHER} rows: p50 {1e3 * p50:.2f} ms and p99 {1e3 * p99:.2f} ms one after another; "
        f"{1e3 * beside:.2f} ms beside the service, taken off."
    )
    return lines


TOGETHER = 400
QUEUE_SECONDS = 30.0


def cpu_seconds(pid: int) -> float:
    import psutil

    used = psutil.Process(pid).cpu_times()
    return float(used.user + used.system)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--model", default="100x31", metavar="TREESxLEAVES")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--peer", default=sys.executable, metavar="PYTHON")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("this benchmark needs wrk: apt-get install wrk, or https://github.com/wg/wrk")
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.artifact is None:
            place, rows = fitted(Path(scratch) / "m", arguments.model)
        else:
            place = Path(shutil.copytree(arguments.artifact, Path(scratch) / "m"))
            rows = rows_of(place)
        bodies, script = Path(scratch) / "rows.jsonl", Path(scratch) / "post.lua"
        bodies.write_text("".join(json.dumps(row) + "\n" for row in rows))
        script.write_text(LUA % json.dumps(str(bodies)))
        table = compared(place, script, arguments)
        print("| endpoint | requests/s | mean ms | p99 ms | p99 / mean | requests | errors |")
        print("|---|---|---|---|---|---|---|")
        print("\n".join(table), flush=True)
        print("\n" + swapped(place, script, arguments) + "\n")
        print("\n".join(queued(place, rows, arguments)))


if __name__ == "__main__":
    main()
