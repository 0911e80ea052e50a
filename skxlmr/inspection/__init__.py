"""Pictures and reports of what fitted estimators do; pictures need matplotlib (``pip install "skxlmr[plot]"``)."""

from skxlmr.inspection.embedding_map import EmbeddingMapDisplay
from skxlmr.inspection.language_confusion import LanguageConfusionDisplay
from skxlmr.inspection.reliability import ReliabilityDisplay
from skxlmr.inspection.report import Report, report
from skxlmr.inspection.training_curve import TrainingCurveDisplay

__all__ = [
    "EmbeddingMapDisplay",
    "LanguageConfusionDisplay",
    "ReliabilityDisplay",
    "Report",
    "TrainingCurveDisplay",
    "report",
]
