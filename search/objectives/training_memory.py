"""The peak private memory of one fit on all rows."""

from __future__ import annotations

from ..objective import Objective


class TrainingMemory(Objective):
    name = "training_memory"
    unit = "B"
    quantity = "training_memory_bytes"
    law = "training_memory_bytes"
    low = 1e3
    high = 4e9
    relative_noise = 0.05
    absolute_noise = 0.5e6
