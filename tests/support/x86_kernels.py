"""The kernels for x86 CPUs, for one instruction set."""

import pytest

from skxlmr.model.avx.library import Library, compiled


def kernels(variant: str) -> Library:
    """Return the kernels for one instruction set; skip the test where they do not run."""
    path = compiled()
    if path is None:
        pytest.skip("the kernels were not compiled: there was no C compiler when skxlmr was installed")
    try:
        return Library(path, variant)
    except (KeyError, AttributeError):
        pytest.skip(f"this CPU has no {variant}")
