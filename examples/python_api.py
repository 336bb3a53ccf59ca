"""The Python interface, step by step as in a notebook; `# %%` begins a cell.

    python examples/python_api.py [FOLDER]

Generates two scenes with known changes, detects them, and saves figures in FOLDER (default: python-api).
"""

# %% Two scenes with known changes
import sys
from pathlib import Path

import geopandas
import matplotlib as mpl
import numpy as np
import rasterio

import geosiam as gs
from geosiam.synthesis.pairs import SyntheticConfig, write_pair_tiles

mpl.use("Agg")
from matplotlib import pyplot as plt

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "python-api")
folder.mkdir(parents=True, exist_ok=True)
scenes = write_pair_tiles(SyntheticConfig(height=640, width=800, seed=11, objects=20), folder)

# %% Inspect the pair: blocks, estimated time, misregistration
inspection = gs.inspect_pair(scenes.before, scenes.after)
print(f"{inspection.blocks} blocks, {inspection.estimated_seconds} s, shift {inspection.report.shift_px} px")

# %% Score and polygonize, like `geosiam detect`
result = gs.detect(scenes.before, scenes.after, folder / "anomalies.gpkg")
print(f"{result.count} polygons with a score of at least {result.threshold}")

# %% The scores as a lazy array: each block is read and scored when it is computed
scores = gs.score(scenes.before, scenes.after)
corner = scores[:64, :64].compute()
print(
    f"{scores.sizes['y']} x {scores.sizes['x']} cells of {scores.attrs['stride']} px; corner: {float(corner.max()):.2f}"
)

# %% A threshold sweep without scoring again
truth = geopandas.read_file(scenes.truth)
computed = scores.compute()
sweep = []
for threshold in (0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
    polygons = gs.vectorize(computed, options=gs.PolygonOptions(threshold=threshold, min_area="20px"))
    correct = [truth.intersects(outline).any() for outline in polygons.geometry]
    found = [polygons.intersects(outline).any() for outline in truth.geometry]
    sweep.append((threshold, np.mean(found), np.mean(correct) if correct else np.nan))
    print(f"from {threshold:.2f} on: {len(polygons)} polygons, recall {sweep[-1][1]:.2f}, precision {sweep[-1][2]:.2f}")

# %% Figures
anomalies = geopandas.read_file(result.polygons_path, layer="anomalies")
with rasterio.open(scenes.after) as scene:
    image, bounds = scene.read((1, 2, 3)).transpose(1, 2, 0), scene.bounds
extent = (bounds.left, bounds.right, bounds.bottom, bounds.top)
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
left.imshow(image, extent=extent)
anomalies.boundary.plot(ax=left, color="red", linewidth=1.2)
left.set_title("After scene and polygons")
computed.plot.imshow(ax=middle, vmin=0, vmax=1, cmap="inferno", cbar_kwargs={"label": "score"})
middle.set_title("Scores")
middle.set_aspect("equal")
right.plot(*zip(*[(step, recall) for step, recall, _ in sweep], strict=True), "o-", label="recall")
right.plot(*zip(*[(step, precision) for step, _, precision in sweep], strict=True), "s-", label="precision")
right.axvline(result.threshold, color="gray", linestyle=":", label="automatic threshold")
right.set(xlabel="threshold", ylim=(0, 1.05), title="Recall and precision by threshold")
right.legend()
for axis in (left, middle):
    axis.set(xticks=[], yticks=[], xlabel="", ylabel="")
figure.savefig(folder / "found.png", dpi=80)
print(folder / "found.png")

# %% The columns of evidence
columns = ["score_mean", "score_max", "area_m2", "shadow_fraction", "hint"]
print(anomalies.sort_values("score_mean", ascending=False)[columns].head().to_string(index=False))
