"""Vectors of texts: exact search, near duplicates, and the removal of what tells languages apart."""

from skxlmr.search.centering import LanguageCentering
from skxlmr.search.duplicates import duplicate_groups, keep_first, near_duplicates
from skxlmr.search.nearest import search

__all__ = ["LanguageCentering", "duplicate_groups", "keep_first", "near_duplicates", "search"]
