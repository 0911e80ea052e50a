"""Reading checkpoints of fairseq; the command `skxlmr convert` does it. Private."""
