"""Tables of polygons for tests: from arrays whose coordinates are their cells, and from anything else."""

import numpy as np
from affine import Affine
from rasterio.crs import CRS

from geosiam.imagery.grid import Grid
from geosiam.polygons.options import PolygonOptions
from geosiam.polygons.schema import SCHEMA
from geosiam.polygons.score_stream import as_scores
from geosiam.polygons.table import Origin, polygon_table, to_frame


class Cells:
    """An array as scores, in strips of any height."""

    def __init__(self, scores, height=1000, extent=None, stride=1):
        self.scores, self.height, self.stride = np.asarray(scores, np.float32), height, stride
        self.grid = Grid(CRS.from_epsg(32633), Affine.identity(), self.scores.shape[1], self.scores.shape[0])
        self.extent = extent or tuple(map(float, self.scores.shape))

    def strips(self, rows):
        height = min(rows, self.height)
        return ((i, self.scores[i : i + height]) for i in range(0, len(self.scores), height))

    def read(self, window):
        return self.scores[window.slices]


def polygons(scores, height=1000, extent=None, threshold=0.5, **options):
    """Return the polygons of an array in cells."""
    return vectorize(Cells(scores, height, extent), threshold=threshold, **options)


def vectorize(scores, *, threshold=0.5, shift_px=None, **options):
    """Return the polygons of a raster, by its path, or of an array."""
    chosen = PolygonOptions(threshold=threshold, **options)
    return polygon_table(as_scores(scores), chosen, Origin(shift_px=shift_px)).frame()


def empty_frame(crs):
    """Return a table without polygons, with all columns."""
    return to_frame(SCHEMA.empty_table(), crs)
