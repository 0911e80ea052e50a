"""A run of predictions: what is predicted, in which spans, and what of it is there already."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from skxlmr.checkpoints.files import checked_as, read_json
from skxlmr.runtime.ahead import ahead
from skxlmr.scale.ids import RepeatedIds, digest_of
from skxlmr.scale.manifest import MOST_LISTED, Manifest
from skxlmr.scale.parts import as_table, read_part, write_part
from skxlmr.scale.predictor import Predictor
from skxlmr.scale.sources import SourceFile, reader_of
from skxlmr.scale.spans import Rows, Span
from skxlmr.system import atomic
from skxlmr.system.schema import COUNT, POSITIVE

NAME = "_run.json"
FORMAT = 1
MAX_BYTES = 2**28  # of the file, which has a line for every part
MAX_VALUES = 8_000_000


@dataclass(frozen=True)
class Settings:
    """What the predictions depend on, beside the source; a run can only be resumed with the same."""

    estimator: str  # its fingerprint
    method: str
    columns: list[str]
    parameters: str
    id_column: str
    rows_per_part: POSITIVE


@dataclass(frozen=True)
class Plan:
    """The content of the file _run.json: settings, files and spans of a run."""

    format: COUNT
    settings: Settings
    files: list[SourceFile]
    spans: list[Span]


@dataclass(frozen=True)
class Job:
    """A run in a process, which predicts spans and writes them; it is sent to other processes as a pickle."""

    target: str
    plan: Plan
    predictor: Predictor

    def rows(self, numbers: Sequence[int]) -> Iterator[tuple[int, Rows]]:
        """Read the spans of these numbers, in ascending order."""
        spans, settings = self.plan.spans, self.plan.settings
        for file, of_file in groupby(numbers, lambda number: spans[number].file):
            some = list(of_file)
            path = self.plan.files[file].path
            chosen = [spans[number] for number in some]
            reader = reader_of(path).read(path, chosen, settings.id_column, settings.columns)
            yield from zip(some, reader, strict=True)

    def process(self, numbers: Sequence[int]) -> Iterator[int]:
        """Predict and write spans, and yield the number of each; while one is predicted, a thread reads the next."""
        reading = self.rows(numbers)
        with closing(ahead(lambda _: next(reading), numbers)) as spans:
            for number, rows in spans:
                results, errors = self.predictor.predict_columns(rows.columns)
                table = as_table(self.plan.settings.id_column, rows.ids, results, errors)
                write_part(self.target, self.plan.spans[number], table)
                yield number

    def todo(self) -> list[int]:
        """Return the numbers of the spans whose predictions are not there, or are damaged."""
        return self.todo_of(range(len(self.plan.spans)))

    def todo_of(self, numbers: Sequence[int]) -> list[int]:
        """Return those of some spans whose predictions are not there, or are damaged."""
        spans, id_column = self.plan.spans, self.plan.settings.id_column
        return [number for number in numbers if read_part(self.target, spans[number], id_column) is None]

    def verify(self) -> Manifest:
        """Read all parts and return what is there, what failed and what is missing."""
        rows = failed = missing = parts = 0
        failed_ids: list = []
        missing_ids: list = []
        for number, span in enumerate(self.plan.spans):
            rows += span.rows
            report = read_part(self.target, span, self.plan.settings.id_column)
            if report is None:
                missing += span.rows
                if len(missing_ids) < MOST_LISTED:
                    ((_, of_span),) = self.rows([number])
                    missing_ids += of_span.ids.to_pylist()
            else:
                parts += 1
                failed += len(report.failed)
                failed_ids += report.failed[: MOST_LISTED - len(failed_ids)]
        return Manifest(
            rows=rows,
            predicted=rows - failed - missing,
            failed=failed,
            missing=missing,
            failed_ids=failed_ids,
            missing_ids=missing_ids[:MOST_LISTED],
            parts=parts,
            target=self.target,
        )


def plan_of(files: list[SourceFile], settings: Settings) -> Plan:
    """Scan files, cut them into spans, and refuse ids that are there twice.

    Raises
    ------
    ValueError
        If a file is not what its name says, has not these columns, or an id is missing or there twice.
    """
    spans: list[Span] = []
    kind = None
    with RepeatedIds() as repeated:
        for i, file in enumerate(files):
            first = 0
            for scanned in reader_of(file.path).scan(file.path, settings.id_column, settings.rows_per_part):
                kind = kind or scanned.ids.type
                if scanned.ids.type != kind:
                    raise ValueError(f"{file.path}: its ids are of the type {scanned.ids.type}, those before {kind}.")
                spans.append(Span(i, first, scanned.rows, scanned.begin, scanned.end, digest_of(scanned.ids)))
                first += scanned.rows
                repeated.add(scanned.ids)
        repeated.check(
            lambda: (
                scanned.ids
                for file in files
                for scanned in reader_of(file.path).scan(file.path, settings.id_column, settings.rows_per_part)
            )
        )
    if not spans:
        raise ValueError(f"There are no rows in {files[0].path}{' and the other files' * (len(files) > 1)}.")
    return Plan(FORMAT, settings, files, spans)


def open_target(target: Path, files: list[SourceFile], settings: Settings, resume: bool) -> Plan:
    """Return the plan of the run in a folder, which is made for a new one.

    Raises
    ------
    FileExistsError
        If the folder has files of others, or of an earlier run that shall not be resumed.
    ValueError
        If the earlier run was of another source, or with other settings. As `plan_of`.
    """
    path = target / NAME
    if not path.exists():
        others = [each.name for each in target.iterdir()] if target.is_dir() else []
        if any(not atomic.is_temporary(target / name) for name in others):
            raise FileExistsError(f"{target} has files already, such as {sorted(others)[0]}. Choose another folder.")
        plan = plan_of(files, settings)
        target.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(path, json.dumps(dataclasses.asdict(plan)).encode())
        return plan
    if not resume:
        raise FileExistsError(f"{target} has predictions of an earlier run. Resume it, or choose another folder.")
    atomic.remove_left_over(target, only_ours=True)
    plan = checked_as(Plan, read_json(path, MAX_BYTES, MAX_VALUES), path)
    if plan.format != FORMAT:
        raise ValueError(f"{path} is of format {plan.format}, which this version does not read.")
    for name, now in dataclasses.asdict(settings).items():
        before = getattr(plan.settings, name)
        if before != now:
            raise ValueError(
                f"The run in {target} cannot be resumed: its {name} is {before!r}, now it is {now!r}. Set it back, or "
                f"choose another folder."
            )
    if plan.files != files:
        raise ValueError(f"The run in {target} cannot be resumed: the source has changed. Choose another folder.")
    if any(span.file >= len(files) for span in plan.spans):
        raise ValueError(f"{path} is damaged: it names files that are not there.")
    return plan
