"""Write a QGIS project of a pair and its results, so that a review begins with opening one file.

==================  ==================================================================================
``project``         ``write_project()``: polygons, scores and scenes as one file
``scenes``          the scenes as layers, drawn as the network sees them
``layers``          layers and projects as XML
==================  ==================================================================================
"""
