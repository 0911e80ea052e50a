"""What fitted estimators do, in pictures, reports and views for notebooks, and explanations of their predictions.

Pictures need matplotlib (``pip install "skxlmr[plot]"``).
"""

from skxlmr.inspection.answers import AnswerView, show_answers
from skxlmr.inspection.attribution_view import AttributionView, show_attributions
from skxlmr.inspection.attributions import token_attributions
from skxlmr.inspection.embedding_map import EmbeddingMapDisplay
from skxlmr.inspection.entities import EntityView, show_entities
from skxlmr.inspection.language_confusion import LanguageConfusionDisplay
from skxlmr.inspection.neighbors import NeighborView, show_neighbors
from skxlmr.inspection.reliability import ReliabilityDisplay
from skxlmr.inspection.report import Report, report
from skxlmr.inspection.training_curve import TrainingCurveDisplay

__all__ = [
    "AnswerView",
    "AttributionView",
    "EmbeddingMapDisplay",
    "EntityView",
    "LanguageConfusionDisplay",
    "NeighborView",
    "ReliabilityDisplay",
    "Report",
    "TrainingCurveDisplay",
    "report",
    "show_answers",
    "show_attributions",
    "show_entities",
    "show_neighbors",
    "token_attributions",
]
