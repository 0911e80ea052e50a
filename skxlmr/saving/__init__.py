"""Fitted estimators on disk, and in the formats of transformers and peft. Private: estimators have methods for it."""
