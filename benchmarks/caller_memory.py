"""Peak memory of the process that calls `automl.fit`, above what it held before the file was read, beside the frame's size.

    python benchmarks/caller_memory.py TABLE --target COLUMN [--budget 60]

The frame's size is `memory_usage(deep=True)` of what pandas reads, in a process of its own. Linux only (the kernel's
high-water mark).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

FRAME = """
import sys, pandas as pd
read = pd.read_parquet if sys.argv[1].endswith(".parquet") else pd.read_csv
print(int(read(sys.argv[1]).memory_usage(deep=True).sum()))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--target", required=True)
    parser.add_argument("--budget", default="60")
    arguments = parser.parse_args()
    frame = int(
        subprocess.run(
            [sys.executable, "-c", FRAME, str(arguments.table)], capture_output=True, text=True, check=True
        ).stdout
    )

    import automl.api
    import automl.dataset
    from automl.search.peak import MemoryPeak

    with MemoryPeak() as peak:
        automl.api.fit(str(arguments.table), target=arguments.target, budget=arguments.budget)
    allowed = 3 * frame + 50e6
    print(
        f"frame {frame / 1e6:.0f} MB, caller's peak {peak.bytes / 1e6:.0f} MB above its start ({peak.method}), allowed {allowed / 1e6:.0f} MB"
    )
    sys.exit(0 if peak.bytes <= allowed else 1)


if __name__ == "__main__":
    main()
