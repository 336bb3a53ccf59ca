"""Two files in; aligned, masked and normalised blocks out."""
