"""How many examples hypothesis makes: a few, always the same, unless HYPOTHESIS_PROFILE is "fuzz"."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck)}  # the tests themselves look at the time

settings.register_profile("test", max_examples=15, derandomize=True, database=None, **QUIET)
settings.register_profile("fuzz", max_examples=300, print_blob=True, **QUIET)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "test"))
