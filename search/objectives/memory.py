"""The memory that the deployed model takes above a process with numpy and onnxruntime loaded."""

from __future__ import annotations

from ..objective import Objective


class Memory(Objective):
    """Half a megabyte is within what one process differs from the next."""

    name = "memory"
    unit = "B"
    quantity = "model_memory_bytes"
    law = "model_memory_bytes"
    low = 1e3
    high = 4e9
    relative_noise = 0.05
    absolute_noise = 0.5e6
