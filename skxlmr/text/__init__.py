"""Texts, tokens and token ids, without any model."""
