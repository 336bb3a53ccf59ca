"""An array whose coordinates are its cells, as a source of scores, in strips of any height."""

import numpy as np
from affine import Affine
from rasterio.crs import CRS

from geosiam.imagery.grid import Grid
from geosiam.polygons.options import PolygonOptions
from geosiam.polygons.table import polygon_pieces


class Cells:
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
    """Return the table of an array."""
    return polygon_pieces(Cells(scores, height, extent), PolygonOptions(threshold, **options)).frame()
