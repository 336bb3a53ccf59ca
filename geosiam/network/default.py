"""The default model's name; a module of its own, so that reading it does not import PyTorch."""

DEFAULT_MODEL = "survey"
