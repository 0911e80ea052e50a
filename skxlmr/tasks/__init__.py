"""What each kind of estimator learns: its column, its targets, its loss and its score. See `skxlmr.tasks.base.Task`."""
