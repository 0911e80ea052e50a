"""Links to the pages of other projects, for which the build needs no network.

Intersphinx reads an inventory: a file that each project publishes beside its pages. Here the inventories are written
from the names that these pages use, since the addresses of the pages of scikit-learn and pandas follow from the names.
"""

from __future__ import annotations

import zlib
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config

SITES = {  # project: the address of its pages, and the pattern of a name's page
    "sklearn": ("https://scikit-learn.org/stable/", "modules/generated/{name}.html"),
    "pandas": ("https://pandas.pydata.org/docs/", "reference/api/{name}.html"),
}
CLASSES = """
    sklearn.calibration.CalibratedClassifierCV sklearn.calibration.CalibrationDisplay sklearn.cluster.HDBSCAN
    sklearn.cluster.KMeans sklearn.compose.ColumnTransformer sklearn.decomposition.PCA
    sklearn.dummy.DummyRegressor sklearn.frozen.FrozenEstimator sklearn.manifold.TSNE
    sklearn.model_selection.LearningCurveDisplay
    sklearn.feature_extraction.text.TfidfVectorizer sklearn.linear_model.LogisticRegression
    sklearn.linear_model.LogisticRegressionCV sklearn.metrics.ConfusionMatrixDisplay
    sklearn.model_selection.FixedThresholdClassifier sklearn.model_selection.GridSearchCV
    sklearn.model_selection.GroupShuffleSplit sklearn.model_selection.RandomizedSearchCV
    sklearn.model_selection.StratifiedKFold
    sklearn.model_selection.TunedThresholdClassifierCV sklearn.neighbors.NearestNeighbors sklearn.pipeline.Pipeline
    pandas.DataFrame pandas.Series
"""
EXCEPTIONS = "sklearn.exceptions.ConvergenceWarning sklearn.exceptions.NotFittedError"
FUNCTIONS = """
    sklearn.base.clone sklearn.metrics.classification_report sklearn.model_selection.cross_val_predict
    sklearn.model_selection.cross_val_score sklearn.model_selection.train_test_split sklearn.pipeline.make_pipeline
    pandas.read_csv
"""
SET_OUTPUT = "auto_examples/miscellaneous/plot_set_output.html"
LABELS = {  # of which the docstrings that estimators inherit from scikit-learn make use
    "metadata_routing": "std:label -1 metadata_routing.html#metadata-routing Metadata Routing",
    "df_output_transform": f"std:label -1 {SET_OUTPUT} The set_output API",
    "sphx_glr_auto_examples_miscellaneous_plot_set_output.py": f"std:label -1 {SET_OUTPUT} The set_output API",
    "meta-estimator": "std:term -1 glossary.html#term-meta-estimator -",
}
KINDS = {"class": CLASSES, "exception": EXCEPTIONS, "function": FUNCTIONS}


def write_inventory(project: str, path: Path) -> None:
    """Write the names of one project in the format that Sphinx calls inventory version 2."""
    _, pattern = SITES[project]
    lines = [
        f"{name} py:{kind} 1 {pattern.format(name=name)}#{name} -\n"
        for kind, names in KINDS.items()
        for name in names.split()
        if name.startswith(f"{project}.")
    ]
    if project == "sklearn":
        lines += [f"{name} {where}\n" for name, where in LABELS.items()]
    header = (
        f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
        "# The remainder of this file is compressed using zlib.\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header.encode() + zlib.compress("".join(sorted(lines)).encode()))


def configure(app: Sphinx, config: Config) -> None:
    """Set `intersphinx_mapping` before intersphinx reads it."""
    for project, (address, _) in SITES.items():
        path = Path(app.outdir).parent / f"{project}.inv"
        write_inventory(project, path)
        config.intersphinx_mapping[project] = (address, str(path))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", configure, priority=1)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
