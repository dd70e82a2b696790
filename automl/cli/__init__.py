"""The `automl` command: results on stdout, progress and notes on stderr, one line and an exit code for every error."""

from __future__ import annotations

from .main import main

__all__ = ["main"]
