"""What a caller gave, checked and turned into a run's own terms: budgets, names, tables and how rows are held apart."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from automl.estimators.errors import DataError, UsageError, UsageTypeError
from automl.search import units

from .run import Rows

if TYPE_CHECKING:
    from automl.estimators.family import Family
    from automl.estimators.table import Table
    from automl.search.objective import Objective

OTHERS_BUDGET = (
    "time_limit",
    "time_budget",
    "max_runtime_secs",
    "max_time",
    "timeout",
    "time_left_for_this_task",
    "total_time_limit",
)
"""Other libraries' words for the budget: an error that names ours."""


@dataclass(frozen=True)
class Budget:
    """What the search may spend: `time` (seconds or "5m"), a number of `trials`, `memory` (bytes or "4GB") a hard cap."""

    time: float | str | None = None
    trials: int | None = None
    memory: float | str | None = None

    def seconds(self) -> float:
        if self.time is None:
            if self.trials is None:
                raise UsageError('budget has neither time nor trials: write Budget(time="5m") or Budget(trials=50)')
            return math.inf
        return units.seconds(self.time, "budget")

    def count(self) -> int | None:
        if self.trials is None:
            return None
        if isinstance(self.trials, bool) or not isinstance(self.trials, int) or self.trials < 1:
            raise UsageError(f"budget of trials is {self.trials!r}: a whole number above 0 is needed")
        return self.trials


def as_budget(budget: Any) -> Budget:
    """A Budget from seconds, "90s", "5m", "1h" or a Budget. Raises UsageError for anything else."""
    if isinstance(budget, Budget):
        found = budget
    else:
        found = Budget(time=budget)
    if found.time is not None or found.trials is None:
        found.seconds()
    found.count()
    return found


def checked(estimator: Any, X: Any, y: Any) -> tuple[Any, Any]:
    """X and y of `estimator.fit`, arrays checked as scikit-learn checks them; frames are left to the table."""
    from sklearn.base import is_regressor
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_y

    if y is None:
        raise UsageError(
            f"{type(estimator).__name__} requires y to be passed, but the target y is None: write fit(X, y)"
        )
    if is_frame(X):
        return X, y
    X = check_matrix(X, estimator, 2)
    if is_regressor(estimator):
        y = _check_y(y, y_numeric=True, estimator=estimator)
    else:
        y = _check_y(y, estimator=estimator)
        check_classification_targets(y)
    if len(y) != X.shape[0]:
        raise UsageError(f"X has {X.shape[0]} rows and y has {len(y)}: they must be as many")
    return X, y


def check_matrix(X: Any, estimator: Any, fewest: int) -> Any:
    """An array or sparse matrix checked as scikit-learn checks it: numbers must be finite or missing, the rest is the table's to read."""
    from sklearn.utils import validation

    check: Any = validation.check_array
    numeric = hasattr(X, "tocsr") or np.asarray(X).dtype.kind in "fc"
    finite = "allow-nan" if numeric else False
    return check(
        X,
        dtype=None,
        accept_sparse="csr",
        ensure_all_finite=finite,
        estimator=estimator,
        input_name="X",
        ensure_min_samples=fewest,
    )


def is_frame(X: Any) -> bool:
    """Whether X has named columns of its own: a DataFrame of any library, or a dict of arrays."""
    if hasattr(X, "tocsr"):  # a sparse matrix by keys is a mapping as well
        return False
    return isinstance(X, Mapping) or hasattr(X, "columns") or hasattr(X, "__dataframe__") or hasattr(X, "column_names")


def is_plain(value: Any) -> bool:
    """Whether JSON carries the value unchanged."""
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False


def resolve_families(families: Any, exclude: Any) -> tuple[Family, ...]:
    """The families named, ours and the user's own (objects or classes) in one list. Raises UsageError for an unknown name.

    "ensemble" among them is no family that is searched: see `with_ensembles`.
    """
    from automl.estimators.families import by_name
    from automl.estimators.family import Family
    from automl.search.plan import ENSEMBLE

    given = None if families is None else [f() if isinstance(f, type) else f for f in as_list(families, "families")]
    for item in given or ():
        if isinstance(item, Family) and item.name == ENSEMBLE:
            raise UsageError(
                f"a family is named {ENSEMBLE!r}, which is what blends of several models are called: rename it"
            )
        if not isinstance(item, (str, Family)):
            raise UsageTypeError(f"families holds {item!r}: give names (see `automl families`) or Family objects")
    given = None if given is None else [item for item in given if item != ENSEMBLE]
    out = [] if exclude is None else [name for name in as_list(exclude, "exclude") if name != ENSEMBLE]
    return tuple(by_name(given, out))


def with_ensembles(families: Any, exclude: Any) -> bool:
    """Whether blends of the models found are wanted: "ensemble" is one of the families where none are named, or by name."""
    from automl.search.plan import ENSEMBLE

    wanted = families is None or ENSEMBLE in as_list(families, "families")
    return wanted and not (exclude is not None and ENSEMBLE in as_list(exclude, "exclude"))


def resolve_objectives(objectives: Any) -> tuple[Objective, ...]:
    """The objectives named, ours and the user's own (objects or classes) in one list; the default four if none is."""
    from automl.search.objectives import by_name

    if objectives is None:
        return by_name(None)
    found = by_name([o() if isinstance(o, type) else o for o in as_list(objectives, "objectives")])
    if not any(o.name == "error" for o in found):
        raise UsageError("objectives leave out error: a front without it is the cheapest model alone; add it")
    return tuple(sorted(found, key=lambda o: o.name != "error"))  # the error first: it is what ties are broken by


def as_list(value: Any, name: str) -> list[Any]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, Sequence):
        return list(value)
    raise UsageTypeError(f"{name} is a {type(value).__name__}: give a list, or names with commas between them")


def seed_of(random_state: Any) -> int:
    """A whole number from scikit-learn's random_state: None draws one, a RandomState gives its next."""
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31 - 1))
    if isinstance(random_state, (int, np.integer)) and random_state >= 0:
        return int(random_state)
    raise UsageError(f"random_state is {random_state!r}: a whole number from 0 on, a RandomState or None is needed")


def refuse_beside_a_file(arrays: Mapping[str, Any], columns: Mapping[str, Any]) -> None:
    """Raises UsageError for what a file cannot be given with: arrays of rows, and columns that are not named."""
    instead = {"y": "target", "X_val": "groups, time or splitter"}
    for name, value in arrays.items():
        if value is not None:
            raise UsageError(
                f"{name} is given, and X is a file: leave it out, or use {instead.get(name, instead['X_val'])}"
            )
    for name, value in columns.items():
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{name} is a {type(value).__name__}, and X is a file: give the name of a column of it")


def split_target(X: Any, y: Any, target: str | None) -> tuple[Any, Any]:
    """(X, y) where `target` may name the column of X that is y."""
    if target is not None:
        if y is not None:
            raise UsageError("both y and target are given: target names a column of X, so leave y out")
        frame = as_pandas(X) if is_frame(X) else X
        if not hasattr(frame, "columns") or target not in list(frame.columns):
            raise UsageError(f"target {target!r} is not a column of X")
        return frame.drop(columns=[target]), frame[target]
    if y is None:
        raise UsageError('y is None: write fit(X, y), or fit(frame, target="COLUMN")')
    return X, y


def assemble(
    X: Any, y: Any, weights: Any, X_val: Any, y_val: Any, groups: Any, time: Any, splitter: Any, task: str | None
) -> tuple[Table, Rows]:
    """The table of what was given in memory, and how its rows are held apart. Raises UsageError for two ways at once."""
    from automl.estimators.table import from_frame, normalised

    n = rows_in(X)
    validation = None
    if X_val is not None or y_val is not None:
        if X_val is None or y_val is None:
            raise UsageError("X_val and y_val go together: one of them is missing")
        for name, given in (("groups", groups), ("time", time), ("splitter", splitter)):
            if given is not None:
                raise UsageError(f"X_val and {name} both say how rows are held apart: give one of them")
        if weights is not None:  # X_val's rows weigh as the mean of X's own
            weights = np.concatenate([normalised(weights, n), np.ones(rows_in(X_val))])
        X, y = stack(X, X_val), joined(y, y_val)
        validation = np.arange(n, rows_in(X))
    table = from_frame(X, y, task=task, weights=weights)
    if validation is not None:
        validation = np.flatnonzero(np.asarray(table.kept) >= n)
    return table, Rows(aligned(groups, "groups", n, table), aligned(time, "time", n, table), validation, splitter)


def joined(y: Any, y_val: Any) -> NDArray[Any]:
    """The targets of the rows and of those to validate on, in one array. Raises DataError where one is text and the other is not."""
    parts = [np.asarray(part) for part in (y, y_val)]
    parts = [part[:, 0] if part.ndim == 2 and part.shape[1] == 1 else part for part in parts]
    kinds = ["text" if part.dtype.kind in "US" else "numbers" for part in parts if part.dtype.kind != "O"]
    if len(set(kinds)) > 1:
        raise DataError(f"y holds {kinds[0]} and y_val holds {kinds[1]}: give both the same kind of labels")
    return np.concatenate(parts)


def aligned(values: Any, name: str, n: int, table: Table, first_row: int = 0) -> NDArray[Any] | None:
    """One value a row of the table, from one a row of what was given: numbers in the order of `time`, codes of other names.

    Raises DataError for another length, for a missing value (naming its row, the first one being `first_row`), and for a
    time that is neither numbers nor dates.
    """
    if values is None:
        return None
    array = np.asarray(values) if hasattr(values, "dtype") else np.asarray(values, object)
    if array.shape != (n,):
        raise DataError(f"{name} has the shape {array.shape}, and there are {n} rows: give one value a row")
    kept = np.asarray(table.kept)
    found, missing = (moments if name == "time" else labels)(array[kept])
    if missing.any():
        row = first_row + int(kept[np.argmax(missing)])
        raise DataError(f"{name} is missing in row {row}: give a value for every row")
    return found


def moments(time: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """(numbers in the order of time, whether each is missing); text is read as a column of the table would be."""
    from automl.estimators.columns import read_column

    if time.dtype.kind in "mM":  # whole: as seconds in float64 they would lose the nanoseconds
        return time.astype(np.int64), np.isnat(time)
    if time.dtype.kind in "iu":
        return time, np.zeros(len(time), bool)
    reading = read_column("time", time.astype(object) if time.dtype.kind in "US" else time)
    if reading.column.kind not in ("numeric", "date"):
        first = next((str(v) for v in time if isinstance(v, str)), str(time[0]))
        raise DataError(
            f"time cannot be put in order: it is read neither as numbers nor as dates (it holds {first[:40]!r});"
            " give numbers, or dates such as 2026-01-31"
        )
    return reading.data, np.isnan(reading.data)


def labels(groups: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """(a code for each distinct value, whether it is missing)."""
    import pandas as pd

    codes, distinct = pd.factorize(groups)
    blank = np.array([isinstance(v, str) and not v.strip() for v in distinct] + [True])
    return np.asarray(codes, np.int64), blank[codes]


def rows_in(X: Any) -> int:
    if isinstance(X, Mapping) and not hasattr(X, "tocsr"):
        return len(next(iter(X.values()), ()))
    matrix: Any = X
    return int(matrix.shape[0]) if hasattr(X, "shape") else len(matrix)


def stack(X: Any, X_val: Any) -> Any:
    """X above X_val, which must have the same columns. Raises DataError if it has not."""
    if is_frame(X):
        import pandas as pd

        if not is_frame(X_val):
            raise DataError("X has columns with names and X_val has not: give both in the same form")
        above, below = as_pandas(X), as_pandas(X_val)
        missing = [c for c in above.columns if c not in list(below.columns)]
        if missing:
            raise DataError(f"X_val lacks the columns {', '.join(map(repr, missing))}")
        return pd.concat([above, below[list(above.columns)]], ignore_index=True)
    parts: list[Any] = [part if hasattr(part, "tocsr") else np.asarray(part) for part in (X, X_val)]
    if parts[0].shape[1:] != parts[1].shape[1:]:
        raise DataError(f"X has the shape {parts[0].shape} and X_val {parts[1].shape}: they must have the same columns")
    if any(hasattr(part, "tocsr") for part in parts):
        from scipy.sparse import vstack

        return vstack(parts).tocsr()
    return np.concatenate(parts)


def as_pandas(X: Any) -> Any:
    """A DataFrame of any library, or a dict of arrays, as pandas'."""
    import pandas as pd

    from automl.estimators.inputs import open_inputs

    if isinstance(X, pd.DataFrame):
        return X
    inputs = open_inputs(X, None)
    columns = (pd.Series(inputs.read(i, None)).reset_index(drop=True) for i in range(len(inputs.names)))
    return pd.DataFrame(dict(zip(inputs.names, columns, strict=True)))


def from_file(
    path: Any, target: str, task: str | None, reading: Mapping[str, Any], groups: Any, time: Any, splitter: Any
) -> tuple[Table, Rows]:
    """The table of a file; `groups` and `time` name columns of it, the groups' one being no input."""
    from .dataset import read_frame, read_table

    apart = [c for c in (groups, time) if c is not None]
    table = read_table(path, target, task=task, apart=(groups,) if groups is not None else (), **reading)
    if not apart:
        return table, Rows(splitter=splitter)
    options = {k: v for k, v in reading.items() if k not in ("weights", "infinite")}
    frame = read_frame(path, **options)
    for name in apart:
        if name not in frame.columns:
            raise UsageError(
                f"{path} has no column {name!r} for groups or time; it has {', '.join(map(str, frame.columns[:20]))}"
            )
    n = len(frame)
    return table, Rows(
        None if groups is None else aligned(frame[groups], "groups", n, table, 2),
        None if time is None else aligned(frame[time], "time", n, table, 2),
        None,
        splitter,
    )


def file_meta(
    path: Any,
    target: str,
    task: str | None,
    reading: Mapping[str, Any],
    groups: Any,
    time: Any,
    splitter: Any,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """What `automl resume` needs of a run whose data is a file; `dropped` names the options that no file can hold."""
    given = {k: list(v) if isinstance(v, tuple) else v for k, v in options.items() if v is not None}
    for name in ("run_dir", "overwrite", "resume", "random_state"):  # the seed stands in the run's identity
        given.pop(name, None)
    if "budget" in given:
        given["budget"] = asdict(as_budget(given["budget"]))
    kept = {name: value for name, value in given.items() if is_plain(value)}
    return {
        "source": str(Path(path).resolve()),
        "target": target,
        "task": task,
        "reading": dict(reading),
        "groups": groups,
        "time": time,
        "options": kept,
        "dropped": sorted(set(given) - set(kept)) + (["splitter"] if splitter is not None else []),
    }
