"""The paper's model: receptive field arithmetic, the Siamese network and its weights files."""
