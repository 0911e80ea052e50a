"""What a process does that `skxlmr.training.launch` started."""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

import torch

from skxlmr.training.launch import ERROR, JOB, MEETING, RESULT, Failure, by_value
from skxlmr.training.ranks import join_by_file, joining, leave_group


def main() -> None:
    """Call the function of the job; the file of the result, or of the error, says how it ended."""
    directory, device_type, rank = Path(sys.argv[1]), sys.argv[2], int(os.environ["RANK"])
    _end_with_parent()
    try:
        device = torch.device("cpu")
        if device_type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        join_by_file(str(directory / MEETING), device)
        with joining(device) as ranks:
            signal.signal(signal.SIGINT, lambda *_: setattr(ranks, "interrupted", True))
            with open(directory / JOB, "rb") as file:
                function, arguments = pickle.load(file)  # nosec B301: written by our parent into its own directory
            result = function(*arguments)
            if ranks.is_first:
                with open(directory / RESULT, "wb") as file:
                    pickle.dump(result, file, protocol=5)
        leave_group()
        # As at an orderly end, except that no objects are deleted, which a thread of torch could not survive.
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are not daemons
        atexit._run_exitfuncs()
        code = 0
    except BaseException as error:
        _write_error(directory, rank, error)
        code = 1  # an orderly end would wait for the others
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _end_with_parent() -> None:
    """Let the kernel, where it can, kill this process when its parent ends."""
    if sys.platform == "linux":
        from torch.multiprocessing import _prctl_pr_set_pdeathsig  # type: ignore[attr-defined]

        _prctl_pr_set_pdeathsig(signal.SIGKILL)
        if str(os.getppid()) != os.environ["SKXLMR_PARENT"]:  # it has ended already
            os._exit(1)


def _write_error(directory: Path, rank: int, error: BaseException) -> None:
    text = "".join(traceback.format_exception(error))
    pickled: bytes | None = None
    try:
        pickled = by_value(error)
        pickle.loads(pickled)  # nosec B301: our own; some exceptions can be written and not read
    except Exception:
        pickled = None
    with open(directory / f"{ERROR.format(rank)}.new", "wb") as file:
        pickle.dump(Failure(rank, time.time(), pickled, text), file)
    os.replace(directory / f"{ERROR.format(rank)}.new", directory / ERROR.format(rank))
