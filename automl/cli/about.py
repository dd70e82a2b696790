"""`automl families` and `automl machine`: what can be searched, and on what."""

from __future__ import annotations

from typing import Any

import click

from . import show
from .options import common

FAMILIES_HELP = """List the model families, simplest first, and what each needs.

\b
Examples:
  automl families
  automl families --json
"""

MACHINE_HELP = """Show the cores, memory and GPU that a fit may use here; affinity and cgroup limits are respected.

\b
Examples:
  automl machine
  automl machine --json
"""


@click.command("families", help=FAMILIES_HELP, short_help="List the model families and what each needs.")
@common
def families(*, as_json: bool, **options: Any) -> None:
    from automl.estimators.families import FAMILIES

    found: list[dict[str, Any]] = [
        {
            "name": family.name,
            "tasks": sorted(family.tasks),
            "sparse": family.sparse,
            "parallel": family.parallel,
            "needs": family.needs,
            "available": family.available(),
            "summary": (family.__doc__ or "").strip().split("\n")[0],
        }
        for family in FAMILIES
    ]
    if as_json:
        show.as_json({"families": found})
        return
    lines = [("family", "tasks", "available", "what it is")]
    for entry in found:
        install = "yes" if entry["available"] else f'pip install "automl-frontier[{entry["needs"]}]"'
        tasks = "all" if len(entry["tasks"]) == 3 else ", ".join(entry["tasks"])
        lines.append((entry["name"], tasks, install, entry["summary"]))
    show.table(lines)


@click.command("machine", help=MACHINE_HELP, short_help="Show the cores, memory and GPU that a fit may use here.")
@common
def machine(*, as_json: bool, **options: Any) -> None:
    from automl.estimators.hardware import detect
    from automl.search.units import show_bytes

    found = detect()
    if as_json:
        show.as_json(found.as_dict())
        return
    show.table(
        [
            ("what", "found"),
            ("cores", str(found.cores)),
            ("memory", f"{show_bytes(found.memory_bytes)}, {show_bytes(found.available_bytes)} of it available"),
            ("processor", found.processor),
            ("gpu", found.gpu or "none"),
            ("system", found.system),
            ("python", found.python),
        ]
    )
