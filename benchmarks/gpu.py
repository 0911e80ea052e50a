"""Measure everything that needs a GPU, in under ten minutes: correctness, speed, memory, training, the alternatives.

    python benchmarks/gpu.py [--device cuda] [--seconds 540] [--only NAME ...] [--resume] [--quick] [--out FOLDER]

Models have random weights that are drawn on the device; nothing is downloaded, and no model is written. Each figure is
printed and written to gpu-<device>.json and .md at once, so a run that is cut off leaves what it had; `--resume` runs
the parts that are missing there or had failed. The parts run in a second process, each within its time budget. What
fails or takes too long is recorded with the reason, and the next part begins in a new process. `--quick` runs tiny
models, which shows that everything works, and measures nothing. benchmarks/NOTES.md says what is printed, and what is
to be expected.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [path for path in (str(HERE), str(HERE.parent)) if path not in sys.path]  # it need not be installed

import torch  # noqa: E402
from gpu_parts import Part, all_parts  # noqa: E402
from gpu_runner import InSecondProcess, InThisProcess, Runner, run_parts  # noqa: E402
from gpu_session import Line, Session  # noqa: E402
from report import number  # noqa: E402
from shared import device_name  # noqa: E402

import skxlmr  # noqa: E402


@dataclass(frozen=True)
class Target:
    """What a figure is to be on an H200: at least or at most a number."""

    part: str  # regular expressions
    what: str
    text: str
    least: float = -float("inf")
    most: float = float("inf")


SECONDS = 540.0  # for everything, beside the start of the process of the parts

TARGETS = (
    Target("tests", "tests failed", "none", most=0),
    Target("xl (bfloat16|float16)", "encoder|texts to vectors", "at least 100,000", least=100_000),
    Target("xl (bfloat16|float16)", "of the measured product", "at least 0.6", least=0.6),
    Target("xl 8-bit triton", "times .*", "at least 1.3", least=1.3),
    Target("xl 8-bit .*", "weights", "under 5", most=5),
    Target("latency .*", r"one text of \d+", "under 10", most=10),
)


@dataclass
class Report:
    """The lines so far, as a table that grows on the screen, and as files that are written again after each line."""

    stem: Path
    about: dict[str, str]
    lines: list[Line] = field(default_factory=list)
    done: list[str] = field(default_factory=list)  # parts

    def record(self, part: Part, line: Line | None) -> None:
        """Add a line; None means that the part is done."""
        if line is None:
            self.done.append(part.name)
        else:
            line = self._with_target(line)
            self.lines.append(line)
        self.write()
        if line is not None:
            print(as_row(line), flush=True)

    def _with_target(self, line: Line) -> Line:
        """Add the target of a figure, and where it is comparable, whether it is met."""
        for target in TARGETS if line.value is not None else ():
            if re.fullmatch(target.part, line.part) and re.fullmatch(target.what, line.what):
                counts = "H200" in self.about["device"] or line.part == "tests"
                return replace(
                    line, target=target.text, met=target.least <= line.value <= target.most if counts else None
                )
        return line

    def write(self) -> None:
        """Replace both files as a whole."""
        content = {**self.about, "done": self.done, "lines": [asdict(line) for line in self.lines]}
        heading = "| part | what | measured | target on an H200 | |\n|---|---|---|---|---|\n"
        about = ", ".join(f"{name} {value}" for name, value in self.about.items())
        table = f"# On a GPU\n\n{about}\n\n{heading}" + "".join(as_row(line) + "\n" for line in self.lines)
        self.stem.parent.mkdir(parents=True, exist_ok=True)
        for suffix, text in ((".json", json.dumps(content, indent=1) + "\n"), (".md", table)):
            written = self.stem.with_name(self.stem.name + suffix + ".part")
            written.write_text(text)
            written.replace(self.stem.with_name(self.stem.name + suffix))

    def read(self) -> None:
        """Take over the lines of the parts that an earlier run has done, if there was one."""
        if not self.stem.with_name(self.stem.name + ".json").exists():
            return
        earlier = json.loads(self.stem.with_name(self.stem.name + ".json").read_text())
        self.done = earlier["done"]
        self.lines = [Line(**line) for line in earlier["lines"] if line["part"] in self.done]


def as_row(line: Line) -> str:
    """Return a row of the table."""
    value = line.status if line.value is None else f"{number(line.value)} {line.unit}".strip()
    target = line.target + {True: ": met", False: ": **missed**", None: ""}[line.met]
    return f"| {line.part} | {line.what} | {value} | {target} | {line.remark.replace('|', '/')} |"


def measure(
    session: Session, runner: Runner, out: Path, *, seconds: float, only: Sequence[str] = (), resume: bool = False
) -> Report:
    """Run the parts whose names begin like one of `only`, and return the report, which is written to the folder."""
    name = device_name(str(session.device))
    file = re.sub(r"[^A-Za-z0-9]+", "-", name + " quick" * session.quick).strip("-").lower()
    about = {"device": name, "torch": torch.__version__, "skxlmr": skxlmr.__version__}
    if session.quick:
        about["quick"] = "tiny models: these are not measurements"
    report = Report(out / f"gpu-{file}", about)
    if resume:
        report.read()
        session.known |= {(line.part, line.what): line.value for line in report.lines if line.value is not None}
    parts = all_parts(session.half == "bfloat16")
    chosen = [part for part in parts if not only or part.name.startswith(tuple(only))]
    if not chosen:
        raise ValueError(
            f"No part begins with {' or '.join(map(repr, only))}. The parts: {', '.join(p.name for p in parts)}"
        )
    run_parts([part for part in chosen if part.name not in report.done], runner, seconds, report.record)
    return report


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for everything; no part begins in the last ten")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="parts whose names begin so")
    parser.add_argument("--resume", action="store_true", help="run what the files of an earlier run lack")
    parser.add_argument("--quick", action="store_true", help="tiny models, which measure nothing")
    parser.add_argument("--here", action="store_true", help="in this process: without time budgets, for debuggers")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --device cpu --quick shows on a CPU that everything runs")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SKXLMR_CACHE"] = str(Path(folder) / "cache")
        session = Session(torch.device(options.device), Path(folder), options.quick)
        runner = InThisProcess(session) if options.here else InSecondProcess(session)
        report = measure(
            session, runner, options.out, seconds=options.seconds, only=options.only, resume=options.resume
        )
        if isinstance(runner, InSecondProcess):
            runner.stop()
    n_missed = sum(line.met is False for line in report.lines)
    n_failed = sum(line.status == "failed" for line in report.lines)
    print(f"written: {report.stem}.json and .md; {n_missed} targets missed, {n_failed} parts failed")


if __name__ == "__main__":
    main()
