"""Ground floor: characters and token ids; knows no model class."""
