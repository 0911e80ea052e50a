"""What the tests of Ray run in its workers, which import it from here."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from sklearn.base import BaseEstimator, TransformerMixin

from skxlmr.runtime.backbone import get_backbone
from skxlmr.runtime.feature_cache import cache


def process_and_base(_: object) -> tuple[int, int]:
    """Return the process, and which base model it has."""
    return os.getpid(), id(get_backbone("nano", device="cpu"))


def feature_cache_bytes(_: object) -> int | None:
    return cache.max_bytes


def devices(_: object) -> tuple[int, str | None]:
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")


def refuse(_: object) -> None:
    raise KeyError("refused in the worker")


class KillsItsProcess(TransformerMixin, BaseEstimator):
    """Kills its process at the first fit if `deaths` is a folder that lacks a file of `name`; always if it is None."""

    def __init__(self, deaths=None, name="once", parent=0):
        self.deaths = deaths
        self.name = name
        self.parent = parent

    def fit(self, X, y=None):
        if os.getpid() != self.parent:  # the final fit is in the process of the test
            died = None if self.deaths is None else Path(self.deaths) / self.name
            if died is None or not died.exists():
                if died is not None:
                    died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return self

    def transform(self, X):
        return X

    def __sklearn_is_fitted__(self):
        return True
