"""What each kind of estimator learns: its column, its targets, its loss and its score."""
