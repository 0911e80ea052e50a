"""Devices, their memory, and what a model takes of it."""
