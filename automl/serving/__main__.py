"""`python -m serving ARTIFACT`: the server without the `automl` command, as a container runs it."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from .app import Limits
from .beside import ArtifactError, DataError, DataTypeError, ResourceError, UsageError
from .model import Served
from .process import Setting, serve


def main() -> int:
    parser = argparse.ArgumentParser(prog="serving", description=__doc__, allow_abbrev=False)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--name", default="", help="the model's name in the URL; default: the artifact's")
    parser.add_argument("--workers", type=int, default=1, help="processes; default: 1")
    parser.add_argument("--threads", type=int, default=1, help="threads of a worker that predict many rows; default: 1")
    parser.add_argument("--no-token", action="store_true", help="serve other hosts without a token (AUTOML_TOKEN)")
    parser.add_argument("--max-body", type=int, default=Limits.body_bytes, metavar="BYTES")
    parser.add_argument("--max-rows", type=int, default=Limits.rows)
    parser.add_argument("--max-concurrency", type=int, default=Limits.concurrency)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")

    def ready(address: str, served: Served) -> None:
        print(f"serving {served.name}, version {served.version}, at {address}", file=sys.stderr, flush=True)

    try:
        return serve(
            Setting(
                given.artifact,
                name=given.name,
                host=given.host,
                port=given.port,
                workers=max(1, given.workers),
                threads=max(1, given.threads),
                token=os.environ.get("AUTOML_TOKEN") or None,
                open=given.no_token,
                limits=Limits(given.max_body, given.max_rows, given.max_concurrency),
            ),
            ready,
        )
    except (UsageError, ArtifactError, DataError, DataTypeError, ResourceError) as error:
        print(f"error: {error}", file=sys.stderr)
        codes = {ArtifactError: 6, DataError: 3, DataTypeError: 3, ResourceError: 5}
        return next((code for kind, code in codes.items() if isinstance(error, kind)), 2)


if __name__ == "__main__":
    sys.exit(main())
