"""The paper's model and nothing else: receptive field arithmetic, the Siamese network and its weights files."""
