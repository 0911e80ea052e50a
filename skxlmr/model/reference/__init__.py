"""The padded interface of the reference documentation."""
