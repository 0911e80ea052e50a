"""The metadata of a release, and the files that people look for in a repository, agree with each other."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from skxlmr.cli import main

if sys.version_info < (3, 11):
    pytest.skip("tomllib is new in Python 3.11", allow_module_level=True)
import tomllib

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FORMS = REPOSITORY / ".github" / "ISSUE_TEMPLATE"
# What each licence says at its beginning.
LICENCES = {"MIT": "MIT License", "BSD-3-Clause": "BSD 3-Clause License"}


def licence_files() -> set[Path]:
    return {REPOSITORY / "LICENSE", *(REPOSITORY / "skxlmr").rglob("LICENSE*")}


def test_citation_has_version_title_and_licence_of_project():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert citation["title"] == PROJECT["name"]
    assert citation["abstract"] == PROJECT["description"]
    assert citation["license"] in PROJECT["license"].split(" AND ")
    assert citation["cff-version"] == "1.2.0"
    assert citation["authors"]
    assert citation["message"]


def test_every_licence_is_in_license_files():
    found = {path for pattern in PROJECT["license-files"] for path in REPOSITORY.glob(pattern)}
    assert found == licence_files()


def test_expression_has_licences_of_all_files():
    named = set()
    for path in licence_files():
        start = path.read_text(encoding="utf-8")[:400]
        of_file = {licence for licence, name in LICENCES.items() if name in start}
        assert len(of_file) == 1, path
        named |= of_file
    assert set(PROJECT["license"].split(" AND ")) == named


def test_classifiers_have_the_oldest_python_and_no_licence():
    versions = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert PROJECT["requires-python"] == f">={versions[0]}"
    minors = [int(version.partition(".")[2]) for version in versions]
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert not [line for line in PROJECT["classifiers"] if line.startswith("License")]  # the expression replaces them


def test_urls_are_in_one_place():
    assert PROJECT["urls"].keys() == {"Documentation", "Repository", "Issues", "Changelog"}
    host = PROJECT["urls"]["Repository"].split("/")[2]
    files = [*REPOSITORY.glob("*.md"), REPOSITORY / "CITATION.cff", REPOSITORY / "docs" / "conf.py", *FORMS.iterdir()]
    repeated = [path.name for path in files if PROJECT["urls"]["Repository"] in path.read_text(encoding="utf-8")]
    assert repeated == [], f"{host} is in pyproject.toml; others read it from the metadata"


@pytest.mark.parametrize("name", ["bug", "feature", "question"])
def test_issue_forms_ask_for_versions_by_a_command_that_exists(name, capsys):
    form = yaml.safe_load((FORMS / f"{name}.yml").read_text(encoding="utf-8"))
    assert form.keys() == {"name", "description", "labels", "body"}
    fields = {field["id"]: field for field in form["body"] if "id" in field}
    assert len(fields) == sum(field["type"] != "markdown" for field in form["body"])
    assert all({"label"} <= field["attributes"].keys() for field in fields.values())
    (command,) = re.findall("`skxlmr (\\w+)`", fields["versions"]["attributes"]["description"])
    main([command])
    assert "scikit-learn" in capsys.readouterr().out


def test_forms_of_pull_requests_name_files_and_targets_that_exist():
    text = (REPOSITORY / ".github" / "PULL_REQUEST_TEMPLATE.md").read_text(encoding="utf-8")
    for name in re.findall(r"[\w/]+\.md", text):
        assert (REPOSITORY / name).is_file(), name
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for target in [*re.findall("`make ([\\w-]+)`", text), "release-check"]:
        assert re.search(f"^{target}:", makefile, re.MULTILINE), target


def test_deprecation_policy_is_in_the_documentation():
    folder = REPOSITORY / "docs" / "reference"
    assert "FutureWarning" in (folder / "stability.md").read_text(encoding="utf-8")
    assert "stability" in (folder / "index.md").read_text(encoding="utf-8").split()


def test_conduct_and_security_name_how_to_report():
    for name in ("CODE_OF_CONDUCT.md", "SECURITY.md"):
        assert "in private" in (REPOSITORY / name).read_text(encoding="utf-8"), name


def test_security_names_tests_that_exist():
    text = (REPOSITORY / "SECURITY.md").read_text(encoding="utf-8")
    for name in re.findall(r"`(tests/[\w/.]+)`", text):
        assert (REPOSITORY / name).exists(), name


def test_manifest_grafts_folders_that_exist():
    lines = (REPOSITORY / "MANIFEST.in").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line.startswith("graft "):
            assert (REPOSITORY / line.removeprefix("graft ")).is_dir(), line


@cache
def imports_of(file: Path) -> frozenset[str]:
    """Return the packages that a file imports when it is imported itself."""
    nodes = ast.parse(file.read_text(encoding="utf-8")).body
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return frozenset(name.partition(".")[0] for name in names)


def imported(path: Path) -> set[str]:
    """Return the packages that a test file imports when it is collected, those of its conftest and helpers included."""
    helpers = {file.stem if file.is_file() else file.name: file for file in (REPOSITORY / "tests/support").iterdir()}
    found, waiting = set(), [path, *(folder / "conftest.py" for folder in path.parents)]
    while waiting:
        file = waiting.pop()
        new = imports_of(file) - found if file.is_file() else set()
        found |= new
        for name in new & helpers.keys():
            waiting += [helpers[name], *helpers[name].glob("*.py")]
    return found - helpers.keys()


@pytest.mark.parametrize(("target", "position"), [("OLDEST", 0), ("SKLEARN", 1)])
def test_tests_of_old_releases_import_only_what_is_installed_for_them(target, position):
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    paths = re.search(rf"^{target}_TESTS := (.*)$", makefile, re.MULTILINE)[1].split()
    installed = {"skxlmr", "scipy", *re.findall(r"-e \. (pytest.*)$", makefile, re.MULTILINE)[position].split()}
    installed |= {re.match(r"[\w-]+", requirement)[0] for requirement in PROJECT["dependencies"]}
    modules = {{"scikit-learn": "sklearn"}.get(name, name.replace("-", "_")) for name in installed}
    for path in paths:
        assert (REPOSITORY / path).exists(), path
        for file in [REPOSITORY / path, *(REPOSITORY / path).rglob("*.py")]:
            more = imported(file) - modules - sys.stdlib_module_names if file.is_file() else set()
            assert not more, f"{file.relative_to(REPOSITORY)} imports {more}"
