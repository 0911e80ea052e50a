"""Tagging the tokens of sentences. Private."""
