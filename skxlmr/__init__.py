"""scikit-learn estimators over text columns, run by XLM-RoBERTa-XL."""
