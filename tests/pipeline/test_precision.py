"""What docs/models.md says of int8 and bf16 against fp32, on pairs that fit into a test."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from geosiam.network.cpu_layers import multiplies_exactly
from geosiam.network.weights import load_model
from geosiam.options import DetectOptions
from geosiam.scoring import score
from geosiam.synthesis.pairs import SyntheticConfig, write_pair_tiles

DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"


INTEGERS = pytest.param(
    "int8",
    marks=pytest.mark.skipif(not multiplies_exactly(), reason="this processor has no instructions for 8-bit integers"),
)


@pytest.mark.parametrize("precision", [INTEGERS, "bf16"])
@pytest.mark.parametrize("model", ["survey", "survey-fast", "paper"])
def test_scores_stay_within_the_documented_tolerance(model: str, precision: str, tmp_path: Path) -> None:
    match = re.search(rf"in {precision}\s(?:differs )?by\sat\smost\s([0-9.]+)", DOCUMENT.read_text(encoding="utf-8"))
    tolerance = float(match[1])
    paths = write_pair_tiles(SyntheticConfig(height=512, width=512, seed=100), tmp_path)
    everywhere = DetectOptions(model=model, device="cpu", register=False)  # moved, a margin of them has no counterpart
    exact, rough = (
        score(paths.before, paths.after, options=replace(everywhere, precision=name)).to_numpy()
        for name in ("fp32", precision)
    )
    assert 0 < np.abs(exact - rough).max() <= tolerance
    threshold = load_model(model).card.threshold
    assert ((exact >= threshold) != (rough >= threshold)).mean() <= 0.003
