"""A QGIS project of a pair and what was found in it, so that the review begins with opening one file."""
