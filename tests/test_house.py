"""The house itself: floors, lists, links, packages, the cost of importing it, and what its documents promise."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("estimators", "search", "automl")
"""From the lowest; each may import those before it."""
HEAVY = (
    "torch",
    "lightgbm",
    "xgboost",
    "catboost",
    "interpret",
    "sklearn",
    "pandas",
    "optuna",
    "onnx",
    "onnxruntime",
    "scipy",
    "numpy",
    "rich",
)
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SUITES = {
    "estimators/families": "automl.estimators.families:FAMILIES",
    "search/objectives": "automl.search.objectives:OBJECTIVES",
    "search/strategies": "automl.search.strategies:STRATEGIES",
    "automl/exporters": "automl.exporters:EXPORTERS",
}
"""Folder of members: the list that holds them."""


def sources(floor: str) -> list[Path]:
    """The floor's Python files; the links to other floors are not followed."""
    found = []
    for folder, folders, names in os.walk(ROOT / floor):
        folders[:] = [f for f in folders if f != "__pycache__"]
        found += [Path(folder) / name for name in names if name.endswith(".py")]
    return sorted(found)


def imports(path: Path, floor: str) -> list[tuple[int, str]]:
    """(line, full module name) of every import in a file, relative ones resolved within `automl`."""
    inside = ("automl", *path.relative_to(ROOT).parts[:-1]) if floor != "automl" else path.relative_to(ROOT).parts[:-1]
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append((node.lineno, node.module or ""))
        elif isinstance(node, ast.ImportFrom):
            base = inside[: len(inside) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found += [(node.lineno, ".".join([*base, name])) for name in names]
    return found


def floor_of(module: str) -> int | None:
    """The floor's number of a module of ours; None for others'."""
    parts = module.split(".")
    if parts[0] != "automl":
        return None
    return FLOORS.index(parts[1]) if len(parts) > 1 and parts[1] in FLOORS[:2] else 2


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_go_down(floor: str) -> None:
    mine = FLOORS.index(floor)
    wrong = []
    for path in sources(floor):
        for line, module in imports(path, floor):
            above = floor_of(module)
            if (above is not None and above > mine) or module.split(".")[0] in FLOORS[:2]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert wrong == []


@pytest.mark.parametrize("floor", FLOORS)
def test_a_relative_import_stays_on_its_floor(floor: str) -> None:
    wrong = []
    for path in sources(floor):
        depth = len(path.relative_to(ROOT).parts) - 1
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level > depth:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert wrong == []


def test_the_list_of_packages_is_the_tree() -> None:
    tree = set()
    for floor in FLOORS:
        for path in sources(floor):
            parts = path.relative_to(ROOT).parts[:-1]
            tree.add(".".join(parts if floor == "automl" else ("automl", *parts)))
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == tree
    for package, folder in PYPROJECT["tool"]["setuptools"]["package-dir"].items():
        assert package == "automl." + folder.replace("/", ".")


@pytest.mark.skipif(sys.platform == "win32", reason="a checkout on Windows may hold the links as text files")
@pytest.mark.parametrize("floor", FLOORS[:2])
def test_the_links_stand(floor: str) -> None:
    link = ROOT / "automl" / floor
    assert link.is_symlink()
    assert os.readlink(link) == f"../{floor}"


@pytest.mark.parametrize(("folder", "where"), list(SUITES.items()))
def test_every_member_is_in_its_list(folder: str, where: str) -> None:
    module, name = where.split(":")
    listed = getattr(importlib.import_module(module), name)
    homes = {(m if isinstance(m, type) else type(m)).__module__.rsplit(".", 1)[-1] for m in listed}
    files = {path.stem for path in (ROOT / folder).glob("*.py") if path.stem != "__init__"}
    assert homes == files


def test_names_in_a_list_are_unique() -> None:
    for where in SUITES.values():
        module, name = where.split(":")
        names = [member.name for member in getattr(importlib.import_module(module), name)]
        assert len(names) == len(set(names))


def test_the_command_line_knows_every_strategy_and_format() -> None:
    from automl.cli.fit import STRATEGIES as NAMES
    from automl.cli.use import EXPORT_HELP
    from automl.exporters import EXPORTERS
    from automl.search.strategies import STRATEGIES

    assert set(NAMES) == {strategy.name for strategy in STRATEGIES}
    for exporter in EXPORTERS:
        assert f"\n  {exporter.name} " in EXPORT_HELP


def test_the_version_is_said_once_and_the_same() -> None:
    import automl

    assert automl.__version__ == PYPROJECT["project"]["version"]


def test_the_face_is_whole() -> None:
    import automl

    for name in automl.__all__:
        assert getattr(automl, name) is not None
    assert set(automl.__all__) == set(dir(automl))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = automl.nothing


# -- the cost of the import ----------------------------------------------------------------------------------------------


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )


@pytest.mark.parametrize("code", ["import automl", "import automl.cli", "import automl.errors"])
def test_an_import_loads_no_library_of_weight(code: str) -> None:
    loaded = python(
        "-c", f"{code}; import sys; print(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    ).stdout.split()
    assert loaded == []


def test_the_runtime_loads_numpy_and_onnxruntime_alone() -> None:
    ask = f"import automl.runtime, sys; print(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    assert set(python("-c", ask).stdout.split()) <= {"numpy", "onnxruntime"}


def test_calling_the_api_loads_neither_torch_nor_lightgbm() -> None:
    ask = "import automl, sys; automl.fit; print([m for m in ('torch', 'lightgbm') if m in sys.modules])"
    assert python("-c", ask).stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments", [["-c", "import automl"], ["-m", "automl", "--help"], ["-m", "automl", "fit", "--help"]]
)
def test_the_start_costs_at_most_a_fifth_of_a_second(arguments: list[str]) -> None:
    """The least of several runs, in turns with a bare interpreter: other load on the machine only ever adds."""
    bare, ours = [], []
    for _ in range(7):
        for command, times in ((["-c", "pass"], bare), (arguments, ours)):
            start = time.perf_counter()
            python(*command)
            times.append(time.perf_counter() - start)
        if min(ours) - min(bare) <= 0.1:
            break
    assert min(ours) - min(bare) <= 0.2


# -- what is shipped -----------------------------------------------------------------------------------------------------


def tracked() -> list[Path]:
    """The files that git tracks or would take; a link counts as a link."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout, so what is tracked isn't known")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    return [Path(name) for name in listed.split("\0") if name and os.path.lexists(ROOT / name)]


def test_the_wheel_holds_every_source_file_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", reason="building a wheel without network needs setuptools in this environment")
    files = tracked()
    for name in files:  # a copy, so that a stale build folder has no say
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "copy" / name, follow_symlinks=False)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), "."]
    done = subprocess.run(build, cwd=tmp_path / "copy", capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    wanted = set()
    for name in files:
        floor = name.parts[0]
        if floor in FLOORS and (
            name.suffix in (".py", ".json", ".c", ".h", ".csv") or name.name in ("py.typed", "CMakeLists.txt")
        ):
            wanted.add(str(name) if floor == "automl" else f"automl/{name}")
    assert held == wanted


def test_the_core_has_few_direct_dependencies() -> None:
    core = PYPROJECT["project"]["dependencies"]
    assert len(core) <= 13
    assert not any(name.startswith("torch") for name in core)
    assert "torch" in " ".join(PYPROJECT["project"]["optional-dependencies"]["all"])


def test_the_constraints_pin_exactly() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", line) for line in lines)
    assert "torch==2.13.0" in lines
    pinned = {line.split("==")[0] for line in lines}
    for name in PYPROJECT["project"]["dependencies"]:
        assert re.split(r"[<>=~!]", name)[0] in pinned


# -- what the documents promise ------------------------------------------------------------------------------------------


def documents() -> str:
    return "\n".join((ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md"))


def test_every_command_of_the_documents_exists() -> None:
    from automl.cli.main import cli

    text = documents()
    for name in re.findall(r"(?:^\$ |`)automl ([a-z]+)", text, flags=re.MULTILINE):
        assert name in cli.commands, f"automl {name}"
    makefile = (ROOT / "Makefile").read_text()
    for name in re.findall(r"(?:^\$ |`)make ([a-z]+)", text, flags=re.MULTILINE):
        assert re.search(rf"^{name}:", makefile, flags=re.MULTILINE), f"make {name}"


def test_every_option_of_the_documents_exists() -> None:
    from automl.cli.main import cli

    for line in re.findall(r"^\$ (automl .*)$", documents(), flags=re.MULTILINE):
        words = line.split()
        known = {option for parameter in cli.commands[words[1]].params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known, line


def test_every_file_that_the_documents_name_exists() -> None:
    text = documents()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    paths = re.findall(r"`((?:examples|benchmarks|tests|automl|search|estimators)/[a-z_/]*(?:\.py)?)`", text)
    for name in (*links, *paths):
        assert (ROOT / name).exists(), name


def test_no_file_names_a_path_of_one_machine() -> None:
    wrong = [
        str(name)
        for name in tracked()
        if name.suffix in (".py", ".md", ".toml", ".yml", ".txt")
        and re.search(r"/(?:home|Users|work|root)/\w", (ROOT / name).read_text())
    ]
    assert wrong == []
