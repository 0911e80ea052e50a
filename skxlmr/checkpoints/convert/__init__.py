"""Conversion of fairseq checkpoints."""
