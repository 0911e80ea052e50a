import gc
import weakref

import pytest
import torch

from skxlmr.system.out_of_memory import MESSAGES, as_out_of_memory


@pytest.mark.parametrize("message", MESSAGES)
def test_errors_of_libraries_that_lack_memory_become_one_type(message):
    with pytest.raises(torch.OutOfMemoryError, match=r"before .* after"), as_out_of_memory():
        raise RuntimeError(f"before {message} after")


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: an illegal memory access"), ValueError(MESSAGES[0])])
def test_other_errors_stay_as_they_are(error):
    with pytest.raises(type(error)) as raised, as_out_of_memory():
        raise error
    assert raised.value is error


def test_error_does_not_keep_what_was_there_when_it_was_raised():
    def fails():
        tensor = torch.ones(3)
        held.append(weakref.ref(tensor))
        raise RuntimeError("MPS backend out of memory")

    held: list[weakref.ref] = []
    with pytest.raises(torch.OutOfMemoryError), as_out_of_memory():
        fails()
    gc.collect()
    assert held[0]() is None
