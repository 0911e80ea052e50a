"""Fitted estimators on disk, and in the formats of other libraries."""
