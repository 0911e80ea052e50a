"""Prediction in this process, span by span."""

from __future__ import annotations

from collections.abc import Sequence

from skxlmr.scale.job import Job
from skxlmr.scale.progress import Progress


def run_local(job: Job, numbers: Sequence[int], progress: Progress) -> None:
    """Predict and write spans; never more than two of them are in memory."""
    for number in job.process(numbers):
        progress.update(job.plan.spans[number].rows)
