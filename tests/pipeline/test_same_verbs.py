"""The same verb with the same defaults gives the same result, from Python and from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import geopandas
import pytest

import geosiam as gs
from geosiam.synthesis.pairs import SyntheticConfig, write_pair_tiles
from geosiam_cli.main import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module", params=["usual", "raised"])
def scenes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return two dates of a place; or two places, which differ so much that the threshold is raised."""
    one, other = (
        write_pair_tiles(SyntheticConfig(height=256, width=320, seed=seed, objects=8), tmp_path_factory.mktemp("scene"))
        for seed in (3, 4)
    )
    return one.before, one.after if request.param == "usual" else other.after


@pytest.mark.parametrize("score_type", ["uint8", "float32"])
def test_every_way_to_the_polygons_leads_to_the_same(
    scenes: tuple[Path, Path],
    score_type: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    before, after = scenes
    options = gs.DetectOptions(score_type=score_type)
    found = gs.detect(before, after, tmp_path / "found.gpkg", options=options)
    assert found.count > 0
    is_raised = found.threshold > gs.load_model().card.threshold
    assert is_raised == ("raised" in request.node.callspec.id)
    expected = geopandas.read_file(found.polygons_path, layer="anomalies")

    written = gs.vectorize_to_file(found.scores_path, tmp_path / "written.gpkg")
    assert (written.count, written.threshold) == (found.count, found.threshold)
    assert list(written.warnings) == [text for text in found.warnings if text not in found.report.warnings]
    commands = [
        ["vectorize", str(found.scores_path), "-o", str(tmp_path / "vectorized.gpkg")],
        ["detect", str(before), str(after), "-o", str(tmp_path / "detected.gpkg"), "--score-type", score_type],
    ]
    for command in commands:
        assert main(command) == 0
        assert f"{found.count} polygons with a score of at least {found.threshold:.3g}" in capsys.readouterr().err
    files = {name: tmp_path / f"{name}.gpkg" for name in ("written", "vectorized", "detected")}
    tables = {name: geopandas.read_file(file, layer="anomalies") for name, file in files.items()}
    tables["returned"] = gs.vectorize(found.scores_path)
    if score_type == "float32":  # bytes are coarser than what `score` returns
        with gs.score(before, after) as scores:
            tables["lazy"] = gs.vectorize(scores)
            tables["held"] = gs.vectorize(scores.compute())
    for name, table in tables.items():
        assert table.crs == expected.crs, name
        assert table.geometry.geom_equals_exact(expected.geometry, tolerance=0).all(), name
        assert list(table["score_mean"]) == list(expected["score_mean"]), name
