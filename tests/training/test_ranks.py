"""What processes exchange, and how they share the micro-batches of a step; without processes."""

import numpy as np
import pytest
import torch

from skxlmr.hardware.footprint import BUCKET_BYTES
from skxlmr.training.randomness import Randomness
from skxlmr.training.ranks import ALONE, Ranks, _buckets


def of_rank(rank, size):
    ranks = Ranks()
    ranks.rank, ranks.size = rank, size
    return ranks


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_share_gives_each_micro_batch_to_one_process(size):
    n_tokens = np.random.RandomState(0).randint(1, 100, 13).tolist()
    shares = [of_rank(rank, size).share(n_tokens) for rank in range(size)]
    assert sorted(i for share in shares for i in share) == list(range(13))
    loads = [sum(n_tokens[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= max(n_tokens)


def test_share_of_fewer_micro_batches_than_processes_leaves_some_without():
    assert [of_rank(rank, 3).share([4, 9]) for rank in range(3)] == [[1], [0], []]


def test_n_tokens_cuts_a_step_into_equally_many_micro_batches_for_each_process():
    assert ALONE.n_tokens(1000, 512) == 512
    assert of_rank(0, 2).n_tokens(1000, 2000) == 500
    assert of_rank(0, 2).n_tokens(1000, 400) == 250
    assert of_rank(1, 4).n_tokens(3, 400) == 1


def test_buckets_hold_neighbours_of_one_dtype_up_to_a_size():
    small, large = torch.empty(1000), torch.empty(BUCKET_BYTES)
    tensors = [small, small, large, small, small.double()]
    assert [len(bucket) for bucket in _buckets(tensors)] == [2, 1, 1, 1]
    assert [id(t) for bucket in _buckets(tensors) for t in bucket] == [id(t) for t in tensors]


def test_drawing_parts_does_not_depend_on_the_other_parts():
    def draw(parts):
        randomness = Randomness(5, torch.device("cpu"))
        for _ in range(2):
            with randomness.drawing_parts() as begin:
                drawn = {}
                for part in parts:
                    begin(part)
                    drawn[part] = torch.rand(3).tolist()
        return drawn, randomness.states[0]

    (every, state), (some, same_state) = draw([0, 1, 2]), draw([2])
    assert some[2] == every[2] != every[1]
    assert torch.equal(state, same_state)


def test_alone_changes_nothing():
    parameter = torch.nn.Parameter(torch.ones(2))
    ALONE.sum_gradients([parameter])
    assert parameter.grad is None
    assert (ALONE.any([True, False]), ALONE.sum(2.0), ALONE.gather("x"), ALONE.broadcast("x")) == (
        [True, False], 2.0, ["x"], "x",
    )  # fmt: skip
