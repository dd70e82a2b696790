"""What trials leave on disk while a run searches: the artifacts and predictions that its end will not ask for are removed."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable

from .ensemble import fit_of
from .study import Study
from .trial import Trial

log = logging.getLogger("automl")

MOST_BYTES = 1e9
"""So many bytes may lie there before anything is removed."""


class Leftovers:
    """What the completed trials have left: artifacts in `Study.folder`, predictions in `Study.predictions`."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._sizes: dict[int, float] = {}  # bytes by the number of the fit
        self._seen, self._most = 0, MOST_BYTES

    def discard(self, wanted: Callable[[], Iterable[Trial]]) -> None:
        """Keeps what belongs to the fits of the `wanted` trials, and removes the rest, where there is too much of it all.

        The predictions of a wanted plan on fewer rows stay as well: the laws of ensembles are made of them.
        """
        trials = self.study.trials
        for trial in trials[self._seen :]:
            if trial.status == "completed" and trial.parent is None:
                self._sizes[trial.number] = self._bytes(trial)
        self._seen = len(trials)
        before = sum(self._sizes.values())
        if before <= self._most:
            return
        found = [*wanted()]
        fits, plans = {fit_of(t) for t in found}, {t.plan.whole.id for t in found}
        for trial in trials:
            if trial.number in self._sizes and trial.number not in fits:
                shutil.rmtree(self.study.folder(trial), ignore_errors=True)
                if trial.plan.id in plans:
                    self._sizes[trial.number] = self._bytes(trial)
                else:
                    self.study.predictions(trial).unlink(missing_ok=True)
                    del self._sizes[trial.number]
        left = sum(self._sizes.values())
        log.debug("of the %.0f MB that trials have left %.0f MB are kept", before / 1e6, left / 1e6)
        self._most = max(MOST_BYTES, 2 * left)

    def _bytes(self, trial: Trial) -> float:
        place, folder = self.study.predictions(trial), self.study.folder(trial)
        artifact = (trial.measurement.size_bytes or 0.0) if folder.exists() else 0.0
        return artifact + (place.stat().st_size if place.exists() else 0)
