"""The encoder's tables as a ColumnTransformer of scikit-learn's own transformers, each frozen as it is set here.

Columns are numbers (NaN where missing) and levels as strings (None, NaN, "" and the strings of `runtime.NA_STRINGS` where missing;
of white space a single blank).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from automl.estimators import runtime
from automl.estimators.runtime import shown

from . import refuse


def column_transformer(encoder: runtime.RowEncoder) -> Any:
    """Fitted; its output's columns are those of the encoded matrix, in float64."""
    from sklearn.compose import ColumnTransformer
    from sklearn.frozen import FrozenEstimator

    steps: list[tuple[str, Any, list[str]]] = []
    for kind, alike in groupby(encoder.entries, type):
        entries = list(alike)
        for group in [entries] if issubclass(kind, runtime.Numeric) else [[entry] for entry in entries]:
            names = [name for entry in group for name in _names(entry)]
            made = _maker(group[0])(group, names)
            steps.append(
                (f"{_called(group[0])} {len(steps)}", made if made == "passthrough" else FrozenEstimator(made), names)
            )
    if not steps:
        raise refuse("it reads no column")
    kinds = {name: not isinstance(e, runtime.Category) for e in encoder.entries for name in _names(e)}
    return ColumnTransformer(steps, sparse_threshold=0.0).fit(_frame(kinds))


def _names(entry: Any) -> Sequence[str]:
    return list(entry.names) if isinstance(entry, runtime.Block) else [entry.name]


def _called(entry: Any) -> str:
    return type(entry).__name__.lower()


def _maker(entry: Any) -> Any:
    if entry.finite:
        raise refuse(
            f"column {shown(entry.name)} takes infinite values as missing, of which scikit-learn has no transformer"
        )
    makers: dict[type, Any] = {
        runtime.Number: lambda entries, names: "passthrough",
        runtime.Scaled: _scaled,
        runtime.Absent: _absent,
        runtime.Shifted: _shifted,
        runtime.Ordinal: _ordinal,
        runtime.OneHot: _onehot,
        runtime.Target: _target,
        runtime.Block: _block,
    }
    if type(entry) in makers:
        return makers[type(entry)]
    what = {
        runtime.Date: "a date, of whose parts scikit-learn has no transformer",
        runtime.Text: "a text, whose words are hashed by CRC-32",
        runtime.Hashed: "a category whose levels are hashed by CRC-32",
    }[type(entry)]
    raise refuse(f"column {shown(entry.name)} is {what}")


def _frame(numeric: dict[str, bool]) -> Any:
    import pandas as pd

    return pd.DataFrame(
        {name: [0.0, 1.0] if number else np.array(["", ""], object) for name, number in numeric.items()}
    )


def _numbers(names: Sequence[str]) -> Any:
    return _frame(dict.fromkeys(names, True))


def _scaler(names: Sequence[str] | int, mean: Any, scale: Any) -> Any:
    from sklearn.preprocessing import StandardScaler

    X = np.zeros((2, names)) if isinstance(names, int) else _numbers(names)
    made = StandardScaler(with_mean=mean is not None, with_std=scale is not None).fit(X)
    if mean is not None:
        made.mean_ = np.asarray(mean, np.float64)
    if scale is not None:
        made.scale_ = np.asarray(scale, np.float64)
        made.var_ = made.scale_**2
    return made


def _fixed_pipeline(*steps: Any) -> Any:
    """Steps that are set already, or need no fit."""
    from sklearn.pipeline import Pipeline

    return Pipeline([(f"{type(step).__name__.lower()} {i}", step) for i, step in enumerate(steps)])


def _zeros(X: Any) -> Any:
    from sklearn.impute import SimpleImputer

    return SimpleImputer(strategy="constant", fill_value=0.0, keep_empty_features=True).fit(X)


def _scaled(entries: Sequence[Any], names: list[str]) -> Any:
    """z / sqrt(1 + z^2 / 9) is 3 sin(arctan(z / 3)); 0 where missing."""
    from sklearn.preprocessing import FunctionTransformer

    first = _scaler(names, [e.center for e in entries], [3.0 * e.scale for e in entries])
    X = np.zeros((2, len(names)))
    curve = [FunctionTransformer(function).fit(X) for function in (np.arctan, np.sin)]
    return _fixed_pipeline(first, *curve, _scaler(len(names), None, np.full(len(names), 1.0 / 3.0)), _zeros(X))


def _absent(entries: Sequence[Any], names: list[str]) -> Any:
    from sklearn.impute import MissingIndicator

    return MissingIndicator(features="all").fit(_numbers(names))


def _shifted(entries: Sequence[Any], names: list[str]) -> Any:
    if entries[0].split:
        raise refuse(f"column {shown(names[0])} is split into two float32 numbers, which no transformer does")
    return _scaler(names, [entries[0].shift], None)


def _block(entries: Sequence[Any], names: list[str]) -> Any:
    filled = _zeros(_numbers(names))
    if entries[0].scale is None:
        return filled
    return _fixed_pipeline(filled, _scaler(len(names), None, 1.0 / np.asarray(entries[0].scale)))


def _ordinal(entries: Sequence[Any], names: list[str]) -> Any:
    from sklearn.preprocessing import OrdinalEncoder

    levels = list(entries[0].codes)
    if not levels:
        return _lookup(names, {}, np.array([[-1.0]]), [-1.0], [-1.0])
    made = OrdinalEncoder(categories=[np.array(levels, object)], handle_unknown="use_encoded_value", unknown_value=-1)
    return made.fit(_level_frame(names, levels))


def _onehot(entries: Sequence[Any], names: list[str]) -> Any:
    from sklearn.preprocessing import OneHotEncoder

    entry = entries[0]
    if entry.entry.get("missing") or not entry.levels:
        rows = np.vstack([np.eye(entry.width), np.zeros(entry.width)])
        table = rows[entry.positions[: len(entry.codes)]]
        return _lookup(names, entry.codes, table, *rows[entry.positions[[runtime.MISSING, runtime.UNSEEN]]])
    made = OneHotEncoder(
        categories=[np.array(list(entry.codes), object)],
        handle_unknown="ignore",
        min_frequency=2 if entry.rare else None,
        sparse_output=False,
    )
    return made.fit(_level_frame(names, [*entry.levels, *entry.levels, *entry.rare]))


def _target(entries: Sequence[Any], names: list[str]) -> Any:
    table = entries[0].table.astype(np.float64)
    return _lookup(names, entries[0].codes, table[:-2], table[runtime.MISSING], table[runtime.UNSEEN])


def _lookup(names: list[str], codes: Any, table: Any, missing: Any, other: Any) -> Any:
    """The numbers of each level as a TargetEncoder keeps them; ways to write missing are levels like others."""
    from sklearn.preprocessing import TargetEncoder

    odd: list[Any] = [cell for cell in ("", " ", *sorted(runtime.NA_STRINGS), None, np.nan) if cell not in codes]
    width = len(other)
    made = TargetEncoder(target_type="multiclass" if width > 1 else "continuous", cv=2)
    rows = np.vstack([np.asarray(table, np.float64).reshape(-1, width), np.tile(missing, (len(odd), 1))])
    y = np.arange(6) % 3 if width > 1 else np.array([0.0, 1.0])  # of any classes: what it learns is set below
    made.fit(_level_frame(names, ["a"] * len(y)), y)
    if width > 1:
        made.classes_ = np.arange(width)
    made.categories_ = [np.array([*codes, *odd], object)]
    made.encodings_ = [np.ascontiguousarray(rows[:, k]) for k in range(width)]
    made.target_mean_ = np.asarray(other, np.float64) if width > 1 else np.float64(other[0])
    return made


def _level_frame(names: Sequence[str], levels: Sequence[Any]) -> Any:
    import pandas as pd

    return pd.DataFrame({names[0]: np.array(levels, object)})
