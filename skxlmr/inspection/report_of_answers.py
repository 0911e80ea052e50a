"""The tables of a report on question answering."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from skxlmr.estimators.qa import XLMRXLQA
from skxlmr.inspection.calibration import calibration_table, expected_calibration_error
from skxlmr.inspection.tables import ReportRows, confusion_table, table_of
from skxlmr.metrics import squad_scores
from skxlmr.tasks.answers import check_answers

KINDS = ("with answer", "without answer")
TOP_K = 10  # answers among which the probability of the best is computed


def tables_of_answers(qa: XLMRXLQA, X: Any, y: Any, rows: ReportRows) -> dict[str, pd.DataFrame | None]:
    """Return the tables of a report, by the names of its attributes."""
    column = qa._check_fitted_column(X)
    answers = [[text for text, _ in of_row] for of_row in check_answers(y, column, errors="keep")]
    predicted, confidence = _best(qa, X, len(answers))
    each = [squad_scores([one], [right], qa.language) for one, right in zip(predicted, answers, strict=True)]
    exact, f1 = (np.array([scores[name] for scores in each]) for name in ("exact_match", "f1"))

    def scores(positions: np.ndarray) -> dict[str, float]:
        return {"exact_match": float(exact[positions].mean()), "f1": float(f1[positions].mean())}

    # Numbers of `KINDS`.
    true_kind, predicted_kind = (np.array([not each for each in given], np.int64) for given in (answers, predicted))
    kinds = {name: np.flatnonzero(true_kind == number) for number, name in enumerate(KINDS)}
    calibration = calibration_table(confidence, exact, rows.n_bins)
    summary = {"n": len(answers), **scores(np.arange(len(answers)))}
    summary["calibration_error"] = expected_calibration_error(calibration)
    counts = confusion_matrix(true_kind, predicted_kind, labels=[0, 1])
    wrong = np.lexsort((-confidence, f1))
    columns = {"right": [" | ".join(of_row) for of_row in answers], "predicted": predicted, "f1": f1}
    return {
        "summary": pd.DataFrame([summary], index=["all rows"]),
        "by_class": table_of({name: found for name, found in kinds.items() if len(found)}, scores, "kind"),
        "by_group": rows.by_group(scores),
        "by_length": rows.by_length(scores),
        "confusion": confusion_table(counts, KINDS),
        "worst": rows.worst(wrong[exact[wrong] < 1], columns | {"probability": confidence}),
        "calibration": calibration,
    }


def _best(qa: XLMRXLQA, X: Any, n_rows: int) -> tuple[list[str], np.ndarray]:
    """Return what `predict` returns, and its probability among the best answers and "no answer"."""
    table = qa.predict_answers(X, top_k=TOP_K)
    predicted, confidence = [""] * n_rows, np.ones(n_rows)  # a context without characters has no answer
    for best in table.drop_duplicates("row").to_dict("records"):
        answered = best["is_answered"]
        predicted[best["row"]] = best["answer"] if answered else ""
        confidence[best["row"]] = best["score"] if answered else best["no_answer_score"]
    return predicted, confidence
