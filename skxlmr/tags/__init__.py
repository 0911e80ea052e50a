"""Tags of tokens: their schemes, the entities that they mark, and conversion between schemes."""

from skxlmr.tags.convert import convert_tags
from skxlmr.tags.entities import entity_spans, spans_to_tags, strict_entity_spans
from skxlmr.tags.infer import infer_scheme
from skxlmr.tags.schemes import split_tag

__all__ = [
    "convert_tags",
    "entity_spans",
    "infer_scheme",
    "spans_to_tags",
    "split_tag",
    "strict_entity_spans",
]
