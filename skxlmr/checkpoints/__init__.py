"""Files of checkpoints: finding, reading, checking and writing them. Private."""
