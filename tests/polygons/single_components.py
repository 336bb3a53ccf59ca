"""Components one by one, as they are compared with those of the whole array."""

from dataclasses import dataclass

import numpy as np

from geosiam.polygons.components import component_batches


@dataclass(frozen=True)
class Component:
    """One row of a ComponentBatch; `rows` and `cols` are half-open ranges of the bounding box."""

    cells: int
    score_mean: float
    score_max: float
    rows: tuple[int, int]
    cols: tuple[int, int]
    neighbors: int
    nodata_neighbors: int
    touches_edge: bool
    valid_fraction: float
    runs: np.ndarray


def single(batch):
    """Return the components of a batch one by one."""
    return [
        Component(
            int(batch.cells[i]),
            float(batch.score_mean[i]),
            float(batch.score_max[i]),
            tuple(batch.bounds[i, :2].tolist()),
            tuple(batch.bounds[i, 2:].tolist()),
            int(batch.neighbors[i]),
            int(batch.nodata_neighbors[i]),
            bool(batch.touches_edge[i]),
            float(batch.valid_fraction[i]),
            batch.runs[batch.offsets[i] : batch.offsets[i + 1]],
        )
        for i in range(len(batch))
    ]


def connected_components(strips, threshold, **options):
    """Yield the components of strips one by one."""
    for batch in component_batches(strips, threshold, **options):
        yield from single(batch)
