import numpy as np
import pandas as pd
import pytest

from skxlmr import XLMRXLClassifier
from skxlmr.columns.names import check_feature_names, check_n_features, feature_names
from skxlmr.columns.reading import check_text_column


def test_check_of_features_with_other_columns_raises():
    estimator = XLMRXLClassifier()
    estimator.n_features_in_, estimator.feature_names_in_ = 1, np.array(["text"], object)
    check_feature_names(estimator, feature_names(pd.DataFrame({"text": ["a"]})))
    with pytest.raises(ValueError, match="feature names"):
        check_feature_names(estimator, feature_names(pd.DataFrame({"body": ["a"]})))
    with pytest.raises(ValueError, match="X has 2 features, but XLMRXLClassifier is expecting 1"):
        check_n_features(estimator, check_text_column([("a", "b")]))
