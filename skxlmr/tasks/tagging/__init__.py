"""Tagging the tokens of sentences."""
