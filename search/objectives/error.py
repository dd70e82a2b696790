"""The error on rows that the model has not seen, as the metric defines it (1 - roc_auc, log_loss, rmse)."""

from __future__ import annotations

from ..objective import Objective


class Error(Objective):
    """Its noise is the paired standard error of a difference, from per-row losses (`front.noise`); its box the run's."""

    name = "error"
    unit = ""
    quantity = "error"
    law = "error"
    log = False
