"""The structure of the package: which modules import which, and where their tests are."""

from __future__ import annotations

import copy
import logging.config
import re
from pathlib import Path

import grimp
import pytest
from importlinter.cli import lint_imports

from skxlmr.estimators.base import XLMRXLEstimator, estimators
from skxlmr.estimators.language_model import XLMRXLLanguageModel
from skxlmr.estimators.learner import XLMRXLLearner

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE, TESTS = REPOSITORY / "skxlmr", REPOSITORY / "tests"
MAX_TOP_LEVEL_FILES = 12
# Imports that close a cycle of modules within a package, all of them for type checkers only, and why they stay.
MUTUAL = {
    ("skxlmr.model.base", "skxlmr.model.encoder"): "a model has an encoder, `base_model`, which is a model itself",
    (
        "skxlmr.model.reference.option_checks",
        "skxlmr.model.reference.generation_options",
    ): "the checks read the options, which call them",
    ("skxlmr.training.callbacks", "skxlmr.training.loop"): "callbacks get the trainer that calls them",
}
COVERED_ELSEWHERE = re.compile(r"^\| `(?P<module>[\w/]+\.py)` \| `(?P<test>[\w/]+\.py)` \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def covered_elsewhere() -> dict[str, str]:
    """The table of CONTRIBUTING.md: modules without a test file of their own, and the file that tests each."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return {row["module"]: row["test"] for row in COVERED_ELSEWHERE.finditer(text)}


def modules() -> list[str]:
    paths = (path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
    return sorted(path.as_posix() for path in paths if path.name != "__init__.py")


def mirrored_test(module: str) -> str:
    path = Path(module)
    return path.with_name(f"test_{path.stem.strip('_')}.py").as_posix()


def test_import_contracts_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logging.config, "dictConfig", lambda _: None)  # it would switch off the loggers of this package
    status = lint_imports(config_filename=str(REPOSITORY / "pyproject.toml"), cache_dir=str(tmp_path), no_logo=True)
    assert status == 0, capsys.readouterr().out


def test_packages_have_no_import_cycle():
    graph = grimp.build_graph("skxlmr", cache_dir=None)  # which this changes
    assert not graph.nominate_cycle_breakers("skxlmr"), "imports that close a cycle of packages"


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """The imports of all modules, with those in functions and under TYPE_CHECKING."""
    return grimp.build_graph("skxlmr", cache_dir=None)


def cycle_of(graph: grimp.ImportGraph, module: str) -> tuple[str, ...] | None:
    """Return the modules of a cycle of imports through a module, which comes first and last."""
    imported = graph.find_modules_directly_imported_by(module)
    chains = (graph.find_shortest_chain(importer=other, imported=module) for other in imported)
    return next(((module, *chain) for chain in chains if chain), None)


def test_modules_have_no_import_cycle(graph: grimp.ImportGraph):
    without = copy.deepcopy(graph)
    for importer, imported in MUTUAL:
        without.remove_import(importer=importer, imported=imported)
    cycles = {module: cycle for module in sorted(without.modules) if (cycle := cycle_of(without, module))}
    assert not cycles, "move what both need into a third module, or describe it there as a Protocol"


def test_imports_that_are_allowed_to_close_a_cycle_do(graph: grimp.ImportGraph):
    unneeded = [pair for pair in MUTUAL if not graph.find_shortest_chain(importer=pair[1], imported=pair[0])]
    assert not unneeded, "take them out of MUTUAL"


def test_package_has_few_top_level_files():
    files = [path.name for path in PACKAGE.iterdir() if path.is_file()]
    assert len(files) <= MAX_TOP_LEVEL_FILES, files


def test_every_module_has_a_test_file(covered_elsewhere: dict[str, str]):
    tests = {module: covered_elsewhere.get(module, mirrored_test(module)) for module in modules()}
    missing = {module: test for module, test in tests.items() if not (TESTS / test).is_file()}
    assert not missing, "add these test files, or name the modules in the table of CONTRIBUTING.md"


def test_table_of_contributing_names_modules_without_their_own_test(covered_elsewhere: dict[str, str]):
    assert covered_elsewhere
    assert set(covered_elsewhere) <= set(modules()), "modules that do not exist"
    mirrored = [module for module in covered_elsewhere if (TESTS / mirrored_test(module)).exists()]
    assert not mirrored, "modules that have a test file of their own"


def test_private_names_that_estimators_override_are_documented():
    """CONTRIBUTING.md lists every private name of a base class that an estimator overrides, 20 at most."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("| private name |")[2].partition("\n\n")[0]
    documented = set(re.findall(r"`(_\w+)`", table))
    bases = [XLMRXLEstimator, XLMRXLLearner, XLMRXLLanguageModel]
    private = {name for base in bases for name in vars(base) if re.match("_[a-z]", name)}
    overridden = {
        name
        for estimator in estimators().values()
        for name in vars(estimator).keys() & private
        if any(name in vars(base) for base in bases if issubclass(estimator, base))
    }
    generated = {"_parameter_constraints"}
    assert "_new_task" in overridden
    assert overridden - generated <= documented
    assert documented <= private | {"_named", "_documentation"}
    assert len(documented) <= 20
