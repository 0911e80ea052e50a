"""Build the source distribution and a wheel, and check what a release needs: `make release-check`.

1. `python -m build` makes dist/*.tar.gz, and of it dist/*.whl, each in an environment of its own.
2. `twine check --strict` reads their metadata and README.
3. The wheel has the package, its data and all licences, and nothing else; its tag is the right one.
4. The source distribution is unpacked elsewhere, the wheel installed in a new environment, which sees the libraries of
   this one, and tests of the source distribution run against it: those that read other files of the repository.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = (".c", ".h")
KERNELS = "skxlmr/model/avx/_kernels"
# Relative to the source distribution: its examples, documentation, benchmarks and tools are read by them.
TESTS = [
    "tests/test_release.py",
    "tests/test_architecture.py",
    "tests/test_readme.py",
    "tests/test_scripts.py",
    "tests/benchmarks/test_engines.py",
    "tests/estimators/test_cards.py",
    "tests/estimators/test_ordinal_classifier.py",
    "tests/saving/test_cards.py",
    "tests/model/avx",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-tests", action="store_true", help="build and check the files only")
    arguments = parser.parse_args()
    sdist, wheel = build(REPOSITORY / "dist")
    run(sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel))
    problems = [*problems_of_wheel(wheel), *problems_of_sdist(sdist)]
    if problems:
        sys.exit("\n".join(problems))
    print_contents(wheel)
    if not arguments.no_tests:
        test(sdist, wheel)
    print(f"{sdist.name} and {wheel.name} can be released.{remark(wheel)}")


def run(*command: str, **options: object) -> None:
    print("$", *command, flush=True)
    subprocess.run(command, check=True, **options)  # type: ignore[call-overload]


def build(folder: Path) -> tuple[Path, Path]:
    """Build into a new folder; returns the source distribution and the wheel."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(REPOSITORY / "build", ignore_errors=True)  # files that were removed since would be in the wheel
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(REPOSITORY)]
    print("$", *command, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def tracked() -> list[str]:
    """Return the files of the repository, or of the unpacked source distribution."""
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        return [name for name in listed.stdout.splitlines() if (REPOSITORY / name).exists()]
    return [path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.rglob("*") if path.is_file()]


def problems_of_wheel(wheel: Path) -> list[str]:
    """Return what is wrong with the content, the metadata or the tag of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = next(name.partition("/")[0] for name in names if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(archive.read(f"{info}/METADATA"))
        tags = message_from_bytes(archive.read(f"{info}/WHEEL")).get_all("Tag") or []
    content = {name for name in names if not name.startswith(f"{info}/")}
    expected = {name for name in tracked() if name.startswith("skxlmr/") and not name.endswith(SOURCES)}
    compiled = {name for name in content if name.startswith(KERNELS)}
    problems = [f"the wheel lacks {name}" for name in sorted(expected - content)]
    problems += [
        f"the wheel has {name}, which is not a file of the package" for name in sorted(content - expected - compiled)
    ]
    problems += problems_of_tags(tags, compiled)
    return problems + problems_of_licences(
        metadata, {name.partition("licenses/")[2] for name in names if "/licenses/" in name}
    )


def problems_of_tags(tags: list[str], compiled: set[str]) -> list[str]:
    """Return what is wrong with the tags of a wheel with compiled kernels: one ABI for all Pythons, one platform."""
    if not compiled:
        return ["the wheel has no compiled kernels: is there a C compiler?"]
    wrong_names = [
        f"{name} is not for the stable ABI" for name in sorted(compiled) if ".abi3." not in name and os.name != "nt"
    ]
    platform = re.sub(r"[-.]", "_", sysconfig.get_platform())
    if tags != [f"cp310-abi3-{platform}"]:
        return [*wrong_names, f"the wheel is for {tags}, and not for cp310-abi3-{platform}"]
    return wrong_names


def problems_of_licences(metadata: Message, written: set[str]) -> list[str]:
    """Return which licences of the repository the metadata or the wheel lack."""
    licences = {name for name in tracked() if Path(name).name.startswith("LICENSE")}
    listed = set(metadata.get_all("License-File") or [])
    problems = [f"License-File lacks {name}" for name in sorted(licences - listed)]
    problems += [f"the wheel lacks the licence {name}" for name in sorted(licences - written)]
    return problems if metadata["License-Expression"] else [*problems, "there is no License-Expression"]


def problems_of_sdist(sdist: Path) -> list[str]:
    """Return which files of the repository a source distribution lacks, or has too many of."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in (member.name for member in archive if member.isfile())}
    files = set(tracked())
    own = {"PKG-INFO", "setup.cfg"} | {name for name in names if name.startswith("skxlmr.egg-info/")}
    problems = [f"the source distribution lacks {name}: add it to MANIFEST.in" for name in sorted(files - names)]
    return problems + [
        f"the source distribution has {name}, which is not in the repository" for name in sorted(names - files - own)
    ]


def print_contents(wheel: Path) -> None:
    """Print the files of a wheel by folder, with their sizes."""
    with zipfile.ZipFile(wheel) as archive:
        files = archive.infolist()
    folders: dict[str, list[int]] = {}
    for file in files:
        folders.setdefault("/".join(file.filename.split("/")[:2]) if file.filename.count("/") > 1 else "", []).append(
            file.file_size
        )
    for folder, sizes in sorted(folders.items()):
        print(f"  {folder or '(top)':<40} {len(sizes):>4} files {sum(sizes) / 1e6:>8.2f} MB")
    print(f"  {wheel.name}: {len(files)} files, {wheel.stat().st_size / 1e6:.1f} MB")


def test(sdist: Path, wheel: Path) -> None:
    """Run tests of the unpacked source distribution against the installed wheel."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        (unpacked,) = folder.glob("skxlmr-*")
        environment = folder / "venv"
        venv.create(environment, with_pip=True)
        python = str(environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
        packages = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        (Path(packages) / "libraries.pth").write_text("\n".join(path for path in sys.path if "site-packages" in path))
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel))
        # Isolated, so that the folder of the sources is not on the path.
        installed = (
            "import sys, skxlmr\n"
            f"assert skxlmr.__file__.startswith({packages!r}), skxlmr.__file__\n"
            "import pytest; sys.exit(pytest.main(sys.argv[1:]))"
        )
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
        run(python, "-I", "-c", installed, "-q", "-p", "no:cacheprovider", *TESTS, cwd=unpacked, env=environ)


def remark(wheel: Path) -> str:
    if "-linux_" not in wheel.name:
        return ""
    return " PyPI takes wheels of Linux with a tag of manylinux only: run auditwheel repair first."


if __name__ == "__main__":
    main()
