"""Addresses of this project."""

from __future__ import annotations

# A placeholder until the pages are published: the address of the folder that `make docs` fills.
DOCUMENTATION = "https://example.org/skxlmr"
API_PAGE = DOCUMENTATION + "/reference/api/skxlmr.{estimator_name}.html"  # of a public class
