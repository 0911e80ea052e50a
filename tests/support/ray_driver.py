"""A driver of Ray whose workers die: `python ray_driver.py WHAT DIRECTORY SOURCE TARGET`.

It is imported by the workers, too, since they unpickle a `DeadlyPredictor`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from skxlmr.scale import Predictor, dataset, predict_dataset

ROWS_PER_PART = int(os.environ.get("TEST_ROWS_PER_PART", "8"))
POISON = "poison"
DEATHS = os.environ.get("TEST_DEATHS", "")  # a folder with a file for every death of a writer


class DeadlyPredictor(Predictor):
    """It ends its process at a certain text, and takes its time."""

    def predict_columns(self, columns):
        if POISON in columns[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(os.environ.get("TEST_SECONDS", "0")))
        return super().predict_columns(columns)


def die_while_writing() -> None:
    """End this process at a rename of a part, before or after it, once for every file in the folder."""
    rename = os.replace

    def deadly(old, new):
        tokens = sorted(os.listdir(DEATHS)) if str(new).endswith(".parquet") else []
        if tokens:
            os.unlink(os.path.join(DEATHS, tokens[0]))
            if len(tokens) % 2:
                rename(old, new)
            os.kill(os.getpid(), signal.SIGKILL)
        rename(old, new)

    os.replace = deadly


IN_WORKER = getattr(sys.modules["__main__"], "__file__", None) != __file__
if DEATHS and IN_WORKER:
    die_while_writing()


def pids_of_actors() -> list[int]:
    """The actors of the pool, among the processes of this namespace."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if entry.name.isdigit() and command.startswith(b"ray::") and b"MapBatches(PartWriter)" in command:
            found.append(int(entry.name))
    return sorted(found)


def n_parts(target: str) -> int:
    return len(list(Path(target).glob("part-*.parquet")))


def wait_for(condition) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def kill_actors(target: str, most: int, killed: list[int]) -> None:
    wait_for(lambda: n_parts(target) >= 2 and len(pids_of_actors()) >= most)
    for pid in pids_of_actors()[:most]:
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)


def run(directory: str, source: str, target: str) -> None:
    import ray_driver  # so that the class is pickled by the name of this module

    dataset.Predictor = ray_driver.DeadlyPredictor
    print(predict_dataset(directory, source, target, engine="ray", rows_per_part=ROWS_PER_PART))


def start(n_cpus: int) -> None:
    import ray

    ray.init(num_cpus=n_cpus, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)


def main(what: str, directory: str, source: str, target: str) -> None:
    arguments = (directory, source, target)
    if what == "own cluster":
        run(*arguments)
    elif what == "driver":
        command = [sys.executable, __file__, "two actors", *arguments]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as driver:
            wait_for(lambda: n_parts(target) >= 3)
            driver.kill()
        print("killed with", n_parts(target), "parts or more", flush=True)
        main("two actors", *arguments)
    else:
        start(3)  # two actors, and one CPU for Ray Data
        killed: list[int] = []
        most = {"one actor": 1, "all actors": 2}.get(what, 0)
        if most:
            threading.Thread(target=kill_actors, args=(target, most, killed), daemon=True).start()
        run(*arguments)
        if most:
            print("killed", len(killed))


if __name__ == "__main__":
    main(*sys.argv[1:])
