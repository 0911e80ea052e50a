"""The scikit-learn estimators; users import them from `skxlmr`. To write one, see CONTRIBUTING.md."""
