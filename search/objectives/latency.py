"""The seconds from one row, a dict of raw values, to its prediction by the deployed artifact: the median."""

from __future__ import annotations

from ..objective import Objective


class Latency(Objective):
    name = "latency"
    unit = "s"
    quantity = "latency_p50_seconds"
    law = "latency_p50_seconds"
    low = 1e-6
    high = 0.1
    relative_noise = 0.05
