"""Plans: tokenised text columns, cut into windows of token ids."""

from skxlmr.runtime.plan.making import make_pair_plan, make_plan, plan_pairs, plan_texts
from skxlmr.runtime.plan.plans import PairPlan, PiecePlan, WindowPlan, WordPlan, rows_of
from skxlmr.runtime.plan.windows import Truncation, WindowParameters, Windows

__all__ = [
    "PairPlan",
    "PiecePlan",
    "Truncation",
    "WindowParameters",
    "WindowPlan",
    "Windows",
    "WordPlan",
    "make_pair_plan",
    "make_plan",
    "plan_pairs",
    "plan_texts",
    "rows_of",
]
