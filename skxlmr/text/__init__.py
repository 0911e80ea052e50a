"""Texts, tokens and token ids, without any model. Private, except the tokenizer that `skxlmr.model` exports."""
