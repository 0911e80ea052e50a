from __future__ import annotations

import pytest

from skxlmr.scale.ray_workers import PROCESS_BYTES, Workers, bytes_of_worker

GB = 10**9


@pytest.mark.parametrize(
    ("given", "resources", "n_parts", "expected"),
    [
        (Workers(), {"CPU": 8, "memory": 100 * GB}, 50, Workers(7, 1, 0)),  # one CPU is left
        (Workers(), {"CPU": 1, "memory": 100 * GB}, 50, Workers(1, 0.5, 0)),
        (Workers(), {"CPU": 64, "memory": 40 * GB}, 50, Workers(4, 15, 0)),  # as many as the memory holds
        (Workers(), {"CPU": 8, "memory": 1 * GB}, 50, Workers(1, 7, 0)),
        (Workers(), {"CPU": 8, "memory": 100 * GB}, 2, Workers(2, 3, 0)),  # no more than parts
        (Workers(), {"CPU": 8, "GPU": 2}, 50, Workers(2, 3, 1)),
        (Workers(gpus=0.5), {"CPU": 8, "GPU": 2}, 50, Workers(4, 1, 0.5)),
        (Workers(gpus=0), {"CPU": 8, "GPU": 2}, 50, Workers(7, 1, 0)),
        (Workers(3), {"CPU": 8}, 50, Workers(3, 2, 0)),
        (Workers(3), {"CPU": 2}, 50, Workers(3, 1 / 3, 0)),
        (Workers(cpus=2), {"CPU": 8}, 50, Workers(3, 2, 0)),
    ],
)
def test_workers_are_found_from_the_resources_of_the_cluster(given, resources, n_parts, expected):
    assert given.found(resources, 10 * GB, n_parts) == expected


@pytest.mark.parametrize("given", [Workers(8, 1), Workers(2, gpus=1), Workers(gpus=4)])
def test_workers_that_do_not_fit_are_an_error(given):
    with pytest.raises(ValueError, match="do not fit: the cluster has 8 CPUs, of which 1 must be left"):
        given.found({"CPU": 8, "GPU": 1}, GB, 50)


@pytest.mark.parametrize("values", [{"count": 0}, {"cpus": 0}, {"gpus": -1}])
def test_workers_are_checked(values):
    with pytest.raises(ValueError, match=r"got (0|-1)\."):
        Workers(**values)


def test_bytes_of_worker_are_those_of_the_model_and_a_process(clf):
    assert PROCESS_BYTES < bytes_of_worker(clf) < 2 * PROCESS_BYTES
