"""Prediction of files of any number of rows, which can be interrupted and resumed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from numbers import Integral
from pathlib import Path
from typing import Any

from skxlmr.estimators.base import XLMRXLEstimator
from skxlmr.scale.job import Job, Settings, open_target
from skxlmr.scale.local import run_local
from skxlmr.scale.manifest import Manifest
from skxlmr.scale.parts import ERROR
from skxlmr.scale.predictor import Predictor
from skxlmr.scale.progress import progress_of
from skxlmr.scale.ray_engine import Workers, run_on_ray
from skxlmr.scale.sources import find_files

ENGINES = {"local": ("pyarrow",), "ray": ("pyarrow", "ray")}  # and the packages that each needs


def predict_dataset(
    estimator: XLMRXLEstimator | str | os.PathLike,
    source: str | os.PathLike | Sequence[str | os.PathLike],
    target: str | os.PathLike,
    id_column: str = "id",
    *,
    column: str | Sequence[str] = "text",
    method: str = "predict",
    parameters: Mapping[str, Any] | None = None,
    engine: str = "local",
    resume: bool = True,
    rows_per_part: int = 4096,
    workers: int | None = None,
    cpus_per_worker: float | None = None,
    gpus_per_worker: float | None = None,
    no_progress_timeout: float = 14400.0,
    verbose: int = 0,
) -> Manifest:
    """Predict all rows of files, and write the predictions as files of Parquet.

    The rows are predicted in parts. A part is written as a whole, so a run that was killed continues with the parts
    that are not there. No row is lost or doubled: ids that are there twice are refused before the first prediction,
    and at the end the ids of all parts are compared with those of the source.

    Parameters
    ----------
    estimator : fitted estimator, str or path
        As for `Predictor`.
    source : str, path, or list of them
        Files of Parquet (.parquet), JSON lines (.jsonl, .ndjson) or CSV (.csv, .tsv; the first line has the names of
        the columns, ids are strings), or folders of them. They are read twice: first their ids.
    target : str or path
        The folder for the predictions: new, empty, or of a run that is resumed. For engine="ray" on several machines,
        source and target must be in a file system that all of them share.
    id_column : str, default="id"
        The column of ids: integers or strings, of which none is missing and none is there twice.
    column : str or list of str, default="text"
    method : str, default="predict"
    parameters : dict, default=None
        As for `Predictor`.
    engine : {"local", "ray"}, default="local"
        "local" predicts in this process. "ray" in a pool of actors of Ray Data, in the cluster that `ray.init` has
        connected this process with or that RAY_ADDRESS names, or else on this machine. Connections through Ray Client
        ("ray://") are refused.
    resume : bool, default=True
        Whether to continue an earlier run in `target`, which must be of the same estimator, source and settings. With
        False it is an error if there is one.
    rows_per_part : int, default=4096
        Rows that are predicted and written at once, and at most lost if the process is killed.
    workers : int, default=None
        Actors of engine="ray". None takes one per GPU of the cluster; without GPUs, one per CPU, less one that is left
        for Ray Data, and as many as the memory of the cluster holds by `skxlmr.memory_estimate`.
    cpus_per_worker, gpus_per_worker : float, default=None
        Of each actor. None shares out what the cluster has.
    no_progress_timeout : float, default=14400
        Seconds without progress after which a pool of actors is given up, and what is left is predicted by single
        tasks. It should be longer than four parts take, which is what an actor is given at once.
    verbose : int, default=0
        With 1 or more, progress is shown on standard error.

    Returns
    -------
    Manifest
        How many rows are predicted, which failed, and which are missing. It is also in `target`, as _manifest.json.

    Raises
    ------
    ImportError
        If a package of the extra "scale" is not installed.
    FileExistsError
        If `target` has other files, or an earlier run and `resume` is False.
    FileNotFoundError
        If there is no such source.
    ValueError
        If a file is not what its name says, a column is not there, ids are missing or repeated, the source has changed,
        or the earlier run was with other settings. What was predicted until then stays, and can be resumed.

    Notes
    -----
    The files `part-*.parquet` have the columns id, those of the method (see `Predictor`), and error (str), which is
    null where a row was predicted. `pandas.read_parquet(target)` reads all of them.

    With engine="ray" a row that ends the process that predicts it is found by smaller and smaller parts, and has an
    error after two attempts of its own. With "local" it ends the run.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import pandas as pd
    >>> from skxlmr import XLMRXLClassifier
    >>> from skxlmr.scale import predict_dataset
    >>> clf = XLMRXLClassifier("nano", tuning="head", random_state=0).fit(["good", "bad"], ["yes", "no"])
    >>> folder = Path(tempfile.mkdtemp())
    >>> pd.DataFrame({"id": [7, 8], "text": ["good", None]}).to_parquet(folder / "in.parquet")
    >>> manifest = predict_dataset(clf, folder / "in.parquet", folder / "out")
    >>> manifest.predicted, manifest.failed_ids
    (1, [8])
    >>> pd.read_parquet(folder / "out").columns.tolist()
    ['id', 'prediction', 'error']
    """
    _check_engine(engine)
    if not isinstance(rows_per_part, Integral) or rows_per_part < 1:
        raise ValueError(f"rows_per_part must be an integer of at least 1, got {rows_per_part!r}.")
    predictor = Predictor(estimator, method=method, column=column, parameters=parameters, error_column=ERROR)
    settings = Settings(
        estimator=predictor.fingerprint,
        method=method,
        columns=predictor.columns,
        parameters=repr(sorted(predictor.parameters.items())),
        id_column=id_column,
        rows_per_part=int(rows_per_part),
    )
    folder = Path(target).expanduser().absolute()
    files = find_files(source)
    if any(folder in Path(file.path).parents for file in files) or _is_inside(folder, source):
        raise ValueError(f"target {folder} and source are folders in each other. Choose another target.")
    job = Job(str(folder), open_target(folder, files, settings, resume), predictor)
    todo = job.todo()
    sizes = [span.rows for span in job.plan.spans]
    with progress_of(sum(sizes), verbose) as progress:
        progress.skip(sum(sizes) - sum(sizes[number] for number in todo))
        if engine == "local":
            run_local(job, todo, progress)
        elif todo:
            run_on_ray(job, todo, progress, Workers(workers, cpus_per_worker, gpus_per_worker), no_progress_timeout)
    manifest = job.verify()
    manifest.write()
    return manifest


def _is_inside(folder: Path, source: Any) -> bool:
    """Whether a folder is one of the sources, or lies in one, whose files would then be its own predictions."""
    if not isinstance(source, str | os.PathLike):
        return any(_is_inside(folder, each) for each in source)
    path = Path(source).expanduser().absolute()
    return path.is_dir() and (path == folder or path in folder.parents)


def _check_engine(engine: str) -> None:
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}.")
    for package in ENGINES[engine]:
        if find_spec(package) is None:
            raise ImportError(f"engine={engine!r} needs {package}: pip install 'skxlmr[scale]'.")
