"""A fault at every file operation of everything that the package writes; prints the table of operations and faults.

Run `python tests/support/fault_sweep.py`, with the names of faults to do only those.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path

from file_faults import FAULTS, Fault, counted
from writers import WRITERS, Writer, prepare

OLD, NEW, NEXT = 1, 2, 3
HASH = re.compile(r"[0-9a-f]{32}")


def listing(place: Path) -> list[str]:
    return sorted(HASH.sub("HASH", path.relative_to(place).as_posix()) for path in place.rglob("*"))


def write_with_fault(writer: Writer, fault: Fault, at: int) -> None:
    """Write `NEW` with the fault in one operation; to be killed, a child process does it."""
    if not fault.name.startswith("SIGKILL"):
        try:
            with counted(fault, at):
                writer.write(NEW)
        except (KeyboardInterrupt, OSError):
            return
        return  # the operation was not necessary, such as the removal of something old
    child = os.fork()
    if not child:
        with counted(fault, at):
            writer.write(NEW)
        os._exit(1)
    os.waitpid(child, 0)


def problem(writer: Writer, allowed: tuple[int | None, ...], expected: list[str]) -> str | None:
    """Return what is wrong after a fault, or None: something is lost, or a later write fails or leaves litter."""
    try:
        found = [writer.read_as_others(), writer.read()]
        if not set(found) <= set(allowed):
            return f"lost: read {found}"
        writer.write(NEXT)
        if (number := writer.read()) != NEXT:
            return f"the next write is not there: read {number}"
    except Exception as error:
        return f"lost: {type(error).__name__}: {error}"
    for name, data in writer.other_files.items():
        if (writer.directory / name).read_bytes() != data:
            return f"lost: {name}"
    if (left := listing(writer.place)) != expected:
        return f"litter: {sorted(set(left) ^ set(expected))}"
    return None


def sweep(
    name: str, fault: Fault, place: Path, *, replace: bool, start: int = 1, step: int = 1
) -> tuple[int, list[str]]:
    """Return the number of faults, and what is wrong after any of them."""
    writer = WRITERS[name](place / "place")
    earlier = place / "earlier" if replace else None
    with writer.settings():
        before = WRITERS[name](place / "earlier")
        prepare(before, None)
        with before.settings():
            before.write(OLD)
        prepare(writer, earlier)
        with counted() as counter:
            writer.write(NEW)
        expected = listing(writer.place)
        problems, numbers = [], range(start, len(counter.names) + 1, step)
        for at in numbers:
            prepare(writer, earlier)
            write_with_fault(writer, fault, at)
            found = problem(writer, (OLD, NEW) if replace else (None, NEW), expected)
            if found is not None:
                problems.append(f"{name}, {fault.name} at {at} ({counter.names[at - 1]}): {found}")
    return len(numbers), problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faults", nargs="*", default=list(FAULTS), metavar="FAULT", help=", ".join(FAULTS))
    parser.add_argument("--quick", action="store_true", help="leave out operations of writers that take long")
    parser.add_argument("--json", action="store_true", help="print counts and problems as JSON")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of a damaged cache, which is written again
    results, problems = {}, []
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        for name, writer in WRITERS.items():
            for index, fault in enumerate(options.faults):
                step = writer.step * (2 if fault == "SIGKILL" else 1) if options.quick else 1  # a fork takes longer
                counts, began = 0, time.monotonic()
                for replace in (True, False):
                    start = 1 + index % step
                    number, found = sweep(name, FAULTS[fault], Path(folder), replace=replace, start=start, step=step)
                    counts += number
                    problems += found
                lost = sum(text.startswith(f"{name}, {fault} at") for text in problems)
                results.setdefault(name, {})[fault] = [counts, lost]
                print(name, fault, counts, lost, f"{time.monotonic() - began:.1f} s", file=sys.stderr)
    if options.json:
        print(json.dumps({"results": results, "problems": problems}))
        return
    print("Faults, and how many of them lost something or left litter after the next write:")
    print(f"{'':30}" + "".join(f"{fault:>20}" for fault in options.faults))
    for name, row in results.items():
        print(f"{name:30}" + "".join(f"{f'{n} / {lost} lost':>20}" for n, lost in row.values()))
    print(*problems, sep="\n")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
