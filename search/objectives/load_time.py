"""The seconds from nothing to a loaded model in a fresh process."""

from __future__ import annotations

from ..objective import Objective


class LoadTime(Objective):
    name = "load_time"
    unit = "s"
    quantity = "load_seconds"
    law = "load_seconds"
    low = 1e-3
    high = 60.0
    relative_noise = 0.05
    absolute_noise = 1e-3
