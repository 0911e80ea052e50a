"""Devices, dtypes, versions, and estimates of the bytes that a model needs. Private."""
