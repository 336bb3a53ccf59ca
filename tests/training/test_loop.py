import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Generator

from geosiam.errors import OptionError, WeightsError
from geosiam.network.siamese import NetworkConfig
from geosiam.training.loop import TrainingRun, _best_f1, best_threshold, one_cycle
from geosiam.training.recipes import PaperRecipe, Schedule
from geosiam.training.sources import ChipStack

CHIPS = ChipStack(torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8, generator=Generator().manual_seed(0)))
RECIPE = PaperRecipe(
    network=NetworkConfig.of_stride(8, width=4, features=8, hidden=8),
    schedule=Schedule(epochs=4, steps=6, batch_size=32, learning_rate=1e-2),
)


def run_in(folder: Path, **changes) -> TrainingRun:
    folder.mkdir(exist_ok=True)
    return TrainingRun(replace(RECIPE, **changes), CHIPS, CHIPS, folder / "w")


def test_an_interrupted_run_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    whole = run_in(tmp_path / "whole")
    whole.run()
    first = run_in(tmp_path / "cut")

    def stop(step: int, _total: int, _loss: float) -> None:
        if step == 15:  # in the middle of the third epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.run(stop)
    second = run_in(tmp_path / "cut")
    assert second.resume()
    assert len(second.history) == 2
    second.run()
    for key, value in second.network.state_dict().items():
        assert torch.equal(value, whole.network.state_dict()[key]), key
    assert [replace(epoch, seconds=0) for epoch in second.history] == [
        replace(epoch, seconds=0) for epoch in whole.history
    ]


def test_learning_lowers_the_loss_and_leaves_curves(tmp_path: Path) -> None:
    run = run_in(tmp_path, schedule=Schedule(epochs=3, steps=25, batch_size=64, learning_rate=1e-2))
    steps = []
    run.run(lambda done, total, loss: steps.append((done, total, loss)))
    assert [step[:2] for step in steps] == [(done, 75) for done in range(1, 76)]
    assert run.history[-1].validation_loss < run.history[0].loss
    with (tmp_path / "w.curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert float(rows[-1]["loss"]) == run.history[-1].loss
    assert (tmp_path / "w.curves.png").read_bytes().startswith(b"\x89PNG")
    assert 0 < best_threshold(run.held_out_cells()) < 1
    assert not list(tmp_path.glob("*.partial"))


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    assert not run_in(tmp_path).resume()
    run_in(tmp_path).save()
    with pytest.raises(WeightsError, match="other settings"):
        run_in(tmp_path, schedule=replace(RECIPE.schedule, batch_size=16)).resume()
    (tmp_path / "w.checkpoint.safetensors").write_bytes(b"rubbish")
    with pytest.raises(WeightsError, match="cannot be read"):
        run_in(tmp_path).resume()


def test_mixed_precision_trains_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    run = TrainingRun(RECIPE, CHIPS, CHIPS, tmp_path / "w", precision="bf16")
    run.run()
    assert all(math.isfinite(epoch.loss) for epoch in run.history)
    with pytest.raises(OptionError, match="fp32 and bf16"):
        TrainingRun(RECIPE, CHIPS, CHIPS, tmp_path / "w", precision="int4")


def test_one_cycle_rises_to_one_and_falls_to_the_floor() -> None:
    factors = [one_cycle(step / 1000) for step in range(1000)]
    assert factors[0] == pytest.approx(0.04)
    assert max(factors) == pytest.approx(1.0, abs=1e-4)
    assert factors.index(max(factors)) == 250
    assert factors[-1] < 2e-3


def test_best_threshold_maximises_f1() -> None:
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.2])
    truth = torch.tensor([True, True, False, True, False])
    # F1 at 0.6 is 6/7, at 0.8 it is 4/5.
    assert _best_f1(scores, truth) == pytest.approx(0.6)
