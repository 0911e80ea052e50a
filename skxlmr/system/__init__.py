"""Files, processes, warnings and progress bars."""
