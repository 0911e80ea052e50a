"""Tests of transformers rewritten as checks of ours, each a function `check_NAME` by the name of the test there."""

import warnings

import pytest


def checks_in(module):
    """Return the checks among the names of a module, without their prefix."""
    return {name.removeprefix("check_"): f for name, f in list(module.items()) if name.startswith("check_")}


def run(checks, not_held, name, request, *arguments):
    """Run a check; one that does not hold must raise the error that `not_held` has for it, beside the reason."""
    if name in not_held:
        error, reason = not_held[name]
        request.applymarker(pytest.mark.xfail(raises=error, reason=reason, strict=True))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*torch.jit", DeprecationWarning)
        checks[name](*arguments)
