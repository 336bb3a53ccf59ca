"""Score raster in, polygons out: components as a stream, outlines, evidence attributes, styled GeoPackage.

==================  ==================================================================================
``runs``            horizontal runs of cells and which of them touch: the arithmetic below the rest
``components``      strips of scores to connected components, one pass, memory of one strip
``outlines``        runs of cells to always-valid MultiPolygons
``areas``           true ground area of cells; the minimum area a user asks for
``polygons``        the three above together: a table of polygons with the evidence for each
``style``           how QGIS draws the table
``geopackage``      the table as a file
==================  ==================================================================================
"""
