"""The weights that are used where none are named."""

DEFAULT_MODEL = "survey"
