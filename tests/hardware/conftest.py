"""Fixtures of the tests of memory estimates."""

import pytest


@pytest.fixture
def with_memory(monkeypatch: pytest.MonkeyPatch):
    """A function that sets the available bytes by device type."""

    def set_available(cpu: float | None, cuda: float = 0) -> None:
        sizes = {"cpu": cpu if cpu is None else int(cpu), "cuda": int(cuda)}
        monkeypatch.setattr("skxlmr.hardware.estimate.available_memory", lambda device: sizes[device.type])

    return set_available
