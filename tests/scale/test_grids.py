"""The context of a grid search, as far as it needs no cluster."""

import sys

import pytest

from skxlmr.scale import grid_backend


@pytest.mark.parametrize(
    ("wrong", "name"),
    [({"n_workers": 0}, "n_workers"), ({"cpus_per_worker": 0.5}, "cpus_per_worker"), ({"timeout": 0}, "timeout"),
     ({"memory_per_worker": "all"}, "memory_per_worker"), ({"estimator": "nano"}, "estimator")],
)  # fmt: skip
def test_invalid_parameter_raises(wrong, name):
    with pytest.raises(ValueError, match=f"The '{name}' parameter of grid_backend"), grid_backend(**wrong):
        pass


def test_missing_ray_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"grid_backend needs Ray: pip install 'skxlmr\[scale\]'"), grid_backend():
        pass
