"""Score raster in, polygons out: components as a stream, outlines, evidence attributes, styled GeoPackage.

==================  ==================================================================================
``runs``            horizontal runs of cells and which of them touch: the arithmetic below the rest
``components``      strips of scores to connected components, one pass, memory of one strip
``outlines``        runs of cells to rings; ``rings`` holds them, ``smoothing`` and ``simplification``
                    draw them otherwise
``areas``           true areas, lengths and places on the ground
``polygons``        the above together: a table of polygons with the evidence for each
``witness``         the part of the evidence that only the scenes can give
``style``           how QGIS draws the table
``writer``          the table as a file; ``geopackage`` is what that format holds besides
==================  ==================================================================================
"""
