"""A folder that `docker build` makes a serving image of: the artifact, its runtime, the server, pinned requirements."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..exporter import Exporter, free, refuse_options

SERVER = "serving"
NEEDS = ("numpy", "onnxruntime", "uvicorn", "httptools", "orjson", "uvloop")
"""What the runtime and the server import: numpy, onnxruntime and the extra serve."""
PYTHON = "3.11"
PORT = 8080


class Container(Exporter):
    """Writes a Dockerfile and what it copies: `model/`, `automl_runtime/` and `serving/`, which need numpy, onnxruntime and
    what the server imports (the extra serve). The image runs one worker as a user without rights, has a health check, and refuses to serve
    without a token (AUTOML_TOKEN, or `--no-token` behind something that guards it). Nothing in the Dockerfile comes from
    the data. `python -m serving model` in the folder runs the same server without an image.
    """

    name = "container"
    summary = "a folder with Dockerfile, pinned requirements, the artifact and the HTTP server"

    def export(self, artifact: Path, destination: Path, **options: Any) -> Path:
        from ..laid import PACKAGE, proven_folder
        from ..parity import Reference

        refuse_options(self.name, options)
        reference = Reference.open(artifact)
        free(destination)
        files = {
            "Dockerfile": DOCKERFILE.format(python=PYTHON, port=PORT, package=PACKAGE).encode(),
            ".dockerignore": b"*\n!requirements.txt\n!runtime.py\n!automl_runtime\n!serving\n!model\n",
            "requirements.txt": pinned(NEEDS).encode(),
            "README.md": README.format(port=PORT).encode(),
            "runtime.py": ALIAS.format(package=PACKAGE).encode(),
            **server_files(),
        }
        return proven_folder(reference, self.name, files, destination)


def server_files() -> dict[str, bytes]:
    """The server's own files, as a package of their own."""
    home = Path(__file__).parents[1] / SERVER
    return {f"{SERVER}/{path.name}": path.read_bytes() for path in sorted(home.glob("*.py"))}


def pinned(packages: Sequence[str]) -> str:
    """requirements.txt of these packages and all that they need, as they are installed here, in order of their names.

    Raises ResourceError for one that is not installed: what was never run is not pinned.
    """
    from automl.estimators.errors import ResourceError

    found: dict[str, str] = {}
    todo = list(packages)
    while todo:
        name = todo.pop()
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            if name in packages:
                raise ResourceError(
                    f"format 'container' pins {name}, not installed here: pip install \"automl-frontier[serve]\""
                ) from None
            continue  # needed on another system
        key = distribution.metadata["Name"].lower()
        if key not in found:
            found[key] = f"{key}=={distribution.version.partition('+')[0]}\n"
            todo += [_name(line) for line in distribution.requires or () if "extra ==" not in line]
    return "".join(found[key] for key in sorted(found))


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    return match.group() if match else requirement


ALIAS = '''\
"""The module `runtime` that `serving` imports: it is `{package}.runtime`."""

import sys

from {package} import runtime

sys.modules[__name__] = runtime
'''

DOCKERFILE = """\
FROM python:{python}-slim
ENV OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin app
WORKDIR /app
COPY requirements.txt ./
RUN pip install --no-cache-dir --disable-pip-version-check -r requirements.txt
COPY runtime.py ./
COPY {package}/ {package}/
COPY serving/ serving/
COPY model/ model/
USER 10001
EXPOSE {port}
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \\
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:{port}/v2/health/ready', timeout=2)"]
ENTRYPOINT ["python", "-m", "serving", "model", "--host", "0.0.0.0", "--port", "{port}"]
"""

README = """\
# A model as an HTTP server

    docker build -t my-model .
    docker run --rm -p {port}:{port} -e AUTOML_TOKEN=... --read-only --cap-drop ALL my-model

It refuses to start without a token; `docker run ... my-model --no-token` where something else guards it. More workers, one
a core: `--workers 4`. A worker takes what was measured of the model (`serving_memory_bytes`) and 30 MB for the server, and where
the model was measured on the compiled engine, for which this image has no compiler, 26 MB for onnxruntime: limit the container's
memory to as much for each worker, and a quarter.

    curl -H "Authorization: Bearer ..." -H "Content-Type: application/json" -d '{{"column": 1.5}}' localhost:{port}/predict

`/docs` lists the paths, `/metrics` is for Prometheus, `/v2/health/ready` is the health check. Without docker:
`pip install -r requirements.txt`, then `python -m serving model` in this folder.
"""
