"""The paper's model: receptive field arithmetic, the Siamese network and its weights files."""

DEFAULT_MODEL = "survey"
"""Name of the bundled model that commands use if none is named."""
