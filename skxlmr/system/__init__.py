"""Files, processes, warnings, progress bars and parameters. Private."""
