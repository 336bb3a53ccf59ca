"""Two files in; aligned, masked and normalized blocks out."""
