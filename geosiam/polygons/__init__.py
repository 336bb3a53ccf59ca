"""Score raster in, polygons out: components as a stream, outlines, columns of evidence, styled GeoPackage.

==================  ==================================================================================
``options``         options of cutting polygons out of scores
``score_stream``    scores, from a file or an array, streamed once from top to bottom
``runs``            horizontal runs of cells: the arithmetic below components and contours
``components``      strips of scores to connected components, one pass, memory of one strip
``contours``        components to outlines: traced, smoothed, simplified
``multipolygons``   outlines as flat arrays, and as well-known binary
``areas``           areas, lengths and centroids on the ground
``attributes``      the columns of evidence that need the pixels of the scenes
``table``           the above together: a table of polygons, computed while it is read
``footprint``       the outline of the scored area
``schema``          names, types and meanings of the columns
``formats``         file formats; does not load their writers
``writer``          the table as a file; ``geopackage`` adds layers, styles and provenance
``results``         reading such a file again
==================  ==================================================================================
"""
