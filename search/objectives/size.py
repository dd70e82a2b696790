"""The bytes of the artifact on disk: manifest and graph."""

from __future__ import annotations

from ..objective import Objective


class Size(Objective):
    """Exact: it has no noise."""

    name = "size"
    unit = "B"
    quantity = "size_bytes"
    law = "size_bytes"
    low = 1e3
    high = 4e9
