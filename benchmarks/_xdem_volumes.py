"""The volumes of benchmarks/heights.py by hand with xdem (pip install xdem): prints JSON; run by that script.

python _xdem_volumes.py BEFORE_DSM AFTER_DSM OUTLINES
"""

from __future__ import annotations

import json
import sys
import warnings

import geopandas
import geoutils
import numpy as np
import xdem
from rasterio.features import geometry_mask

warnings.simplefilter("ignore")


def main() -> None:
    """Co-register by Nuth and Kääb and a plane outside of the outlines; sum volumes; errors from a variogram."""
    before, after = (xdem.DEM(path) for path in sys.argv[1:3])
    polygons = geopandas.read_file(sys.argv[3])
    near = geoutils.Vector(polygons.assign(geometry=polygons.buffer(0.4)))
    stable = ~near.create_mask(before)
    steps = xdem.coreg.NuthKaab() + xdem.coreg.Deramp(poly_order=1)
    steps.fit(before, after, inlier_mask=stable)
    difference = steps.apply(after).reproject(before, silent=True) - before
    dh = difference.data.filled(np.nan).squeeze()
    sigma_dh = 1.4826 * np.nanmedian(np.abs(dh[stable.data.squeeze()] - np.nanmedian(dh[stable.data.squeeze()])))
    _, parameters, _ = xdem.spatialstats.infer_spatial_correlation_from_stable(
        dvalues=difference, stable_mask=stable, list_models=["Gaussian", "Spherical"],
        estimator="dowd", random_state=42, subsample=500,
    )  # fmt: skip
    pixel = abs(before.transform.determinant)
    volumes, sigmas = [], []
    for polygon in polygons.geometry:
        values = dh[geometry_mask([polygon], dh.shape, before.transform, invert=True)]
        area = np.count_nonzero(np.isfinite(values)) and polygon.area
        effective = xdem.spatialstats.number_effective_samples(area=polygon.area, params_variogram_model=parameters)
        volumes.append(float(np.nanmean(values) * area))
        sigmas.append(float(sigma_dh / np.sqrt(max(effective, 1e-9)) * polygon.area))
    print(json.dumps({"volume": volumes, "sigma": sigmas, "pixel": pixel}))


if __name__ == "__main__":
    main()
