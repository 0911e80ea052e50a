"""Views of what fitted estimators predict, for notebooks, and explanations of predictions."""

from skxlmr.inspection.answers import AnswerView, show_answers
from skxlmr.inspection.attribution_view import AttributionView, show_attributions
from skxlmr.inspection.attributions import token_attributions
from skxlmr.inspection.entities import EntityView, show_entities
from skxlmr.inspection.neighbors import NeighborView, show_neighbors

__all__ = [
    "AnswerView",
    "AttributionView",
    "EntityView",
    "NeighborView",
    "show_answers",
    "show_attributions",
    "show_entities",
    "show_neighbors",
    "token_attributions",
]
