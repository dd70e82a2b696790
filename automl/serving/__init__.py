"""The HTTP server of one artifact: an ASGI application, and the processes that run it under uvicorn.

It needs `runtime.py`, uvicorn and orjson alone: this folder may be laid beside the one-file runtime and an artifact, where
`python -m serving ARTIFACT` then serves it without the rest of the package.
"""

from __future__ import annotations
