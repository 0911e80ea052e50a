"""Devices, dtypes, and estimates of the bytes that a model needs."""
