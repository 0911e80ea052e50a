"""What a run has predicted, and what not."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

from skxlmr.checkpoints.files import read_json_as
from skxlmr.system import atomic
from skxlmr.system.schema import COUNT

NAME = "_manifest.json"  # readers of folders of Parquet leave out what begins with an underscore
MOST_LISTED = 1000  # ids


@dataclass(frozen=True)
class Manifest:
    """What a run of `predict_dataset` has predicted; the file _manifest.json beside the predictions.

    Attributes
    ----------
    rows : int
        Rows of the source.
    predicted : int
        Rows with a prediction.
    failed : int
        Rows that have an error instead.
    missing : int
        Rows that are not in the result; a run that is resumed predicts them.
    failed_ids, missing_ids : list of int or str
        The ids of such rows, the first 1,000. All failed rows have a value in the column "error".
    parts : int
        Files of predictions.
    target : str
        The folder.
    """

    rows: COUNT
    predicted: COUNT
    failed: COUNT
    missing: COUNT
    failed_ids: list[int | str]
    missing_ids: list[int | str]
    parts: COUNT
    target: str

    @property
    def complete(self) -> bool:
        """Whether every row has a prediction."""
        return self.predicted == self.rows

    def write(self) -> None:
        """Write it beside the predictions."""
        content = json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False)
        atomic.write_bytes(Path(self.target) / NAME, content.encode("utf-8", "backslashreplace"))

    @classmethod
    def read(cls, target: str | os.PathLike) -> Manifest:
        """Read the manifest of a folder of predictions.

        Raises
        ------
        CheckpointError
            If it is missing or damaged.
        """
        return read_json_as(cls, Path(target) / NAME)

    def __str__(self) -> str:
        lines = [f"{self.predicted:,} of {self.rows:,} rows are predicted, in {self.parts:,} files in {self.target}."]
        for count, ids, what in (
            (self.failed, self.failed_ids, "have an error, in the column 'error'"),
            (self.missing, self.missing_ids, "are missing; resume the run to predict them"),
        ):
            if count:
                some = ", ".join(map(str, ids[:10])) + ", ..." * (count > 10)
                lines.append(f"{count:,} rows {what}: {some}")
        return "\n".join(lines)
