"""geosiam finds what changed or does not belong between two georeferenced scenes."""
