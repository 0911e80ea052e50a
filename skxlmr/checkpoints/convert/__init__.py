"""Reading checkpoints of fairseq."""
