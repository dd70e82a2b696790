"""How long requests wait for one of several cores: M/G/c, arrivals at random, one queue.

The chance to wait is Erlang's C formula; the mean wait that of M/M/c times (1 + cv^2) / 2 (Allen and Cunneen 1978; exact for
one core, Pollaczek and Khinchine; see Kimura, "Approximations for multi-server queues", Queueing Systems 17, 1994); the
wait of those who do wait is taken for exponential (exact for M/M/c, and for any service in heavy traffic: Kingman 1962).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

Z99 = NormalDist().inv_cdf(0.99)
POINTS = 400


MOST_CORES = 4096
"""More are not looked for."""


@dataclass(frozen=True)
class Service:
    """The time that one request takes a core: log-normal from its median and 99th percentile, plus a constant, in seconds."""

    median: float
    p99: float
    constant: float = 0.0

    @property
    def sigma(self) -> float:
        return math.log(max(1.0, self.p99 / self.median)) / Z99

    @property
    def mean(self) -> float:
        return self.constant + self.median * math.exp(self.sigma**2 / 2)

    @property
    def cv2(self) -> float:
        """The squared coefficient of variation."""
        spread = math.expm1(self.sigma**2) * (self.mean - self.constant) ** 2
        return spread / self.mean**2

    def quantiles(self) -> list[float]:
        """POINTS equally likely values."""
        normal = NormalDist()
        at = [normal.inv_cdf((i + 0.5) / POINTS) for i in range(POINTS)]
        return [self.constant + self.median * math.exp(self.sigma * z) for z in at]


def erlang_c(cores: int, load: float) -> float:
    """The chance that a request finds all cores busy; `load` is arrivals times mean service, below `cores`."""
    blocked = 1.0  # Erlang B, by its recursion
    for k in range(1, cores + 1):
        blocked = load * blocked / (k + load * blocked)
    return blocked / (1.0 - load / cores * (1.0 - blocked))


def mean_wait(cores: int, rate: float, service: Service) -> float:
    """Seconds in the queue, mean over all requests; infinite where the cores cannot keep up."""
    load = rate * service.mean
    if load >= cores:
        return math.inf
    return erlang_c(cores, load) * service.mean / (cores - load) * (1.0 + service.cv2) / 2.0


def response(cores: int, rate: float, service: Service, share: float = 0.99) -> float:
    """Seconds within which this share of the requests is answered, waiting included; infinite without steady state."""
    wait = mean_wait(cores, rate, service)
    if math.isinf(wait):
        return math.inf
    waits = erlang_c(cores, rate * service.mean)
    return _quantile(waits, wait / waits if waits > 0 else 0.0, service.quantiles(), 1.0 - share)


def _quantile(waits: float, mean: float, services: Sequence[float], beyond: float) -> float:
    """t with P(wait + service > t) = `beyond`."""

    def over(t: float) -> float:
        if mean == 0.0:
            return sum(s > t for s in services) / len(services)
        return sum(1.0 if s >= t else waits * math.exp((s - t) / mean) for s in services) / len(services)

    low, high = 0.0, max(services) + 50.0 * mean + 1e-9
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if over(middle) > beyond else (low, middle)
    return high


def cores_for(rate: float, service: Service, most: float, busy: float = 1.0, limit: int = MOST_CORES) -> int | None:
    """The fewest cores, at most `busy` of their time at work, that answer 99 % within `most` seconds; None for above `limit`."""
    cores = max(1, math.ceil(rate * service.mean / busy))
    if cores > limit or response(limit, rate, service) > most:
        return None
    while response(cores, rate, service) > most:
        cores += 1
    return cores
