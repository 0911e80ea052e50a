"""Ground floor: files and tensors; knows no model class."""
