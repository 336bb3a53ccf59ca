import contextlib
import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Generator

from geosiam.errors import OptionError, OutputError, WeightsError
from geosiam.network.architecture import NetworkConfig
from geosiam.network.siamese import SiameseNetwork
from geosiam.training.calibration import _best_f1, best_threshold
from geosiam.training.loop import TrainingRun, one_cycle
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
    with pytest.raises(WeightsError, match="other options"):
        run_in(tmp_path, schedule=replace(RECIPE.schedule, batch_size=16)).resume()
    (tmp_path / "w.checkpoint.safetensors").write_bytes(b"rubbish")
    with pytest.raises(WeightsError, match="cannot be read"):
        run_in(tmp_path).resume()


def test_mixed_precision_trains_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    run = TrainingRun(RECIPE, CHIPS, CHIPS, tmp_path / "w", precision="bf16")
    run.run()
    assert all(math.isfinite(epoch.loss) for epoch in run.history)
    with pytest.raises(OptionError, match="fp32 or bf16"):
        TrainingRun(RECIPE, CHIPS, CHIPS, tmp_path / "w", precision="int4")


def former_one_cycle(progress: float) -> float:
    """Return the factor of the learning rate by the formula that trained the bundled weights."""
    if progress < 0.25:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * progress / 0.25)) / 2
    return 1e-3 + (1 - 1e-3) * (1 + math.cos(math.pi * (progress - 0.25) / 0.75)) / 2


def schedule_of(steps: int, *, done: int = 0, peak: float = 1.0) -> tuple[torch.optim.Optimizer, list[float]]:
    """Return an optimizer, and the learning rates of its remaining steps."""
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
    schedule = one_cycle(optimizer, peak, steps, steps_done=done)
    rates = []
    for _ in range(done, steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return optimizer, rates


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 7, 24, 100, 3000])
def test_one_cycle_is_the_curve_that_trained_the_bundled_weights(steps: int) -> None:
    optimizer, rates = schedule_of(steps)
    former = [former_one_cycle(step / steps) for step in range(steps)]
    assert max(abs(a - b) for a, b in zip(rates, former, strict=True)) < 1e-15
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


@pytest.mark.parametrize("done", [1, 5, 6, 7, 23, 24])
def test_a_schedule_continues_where_it_stopped(done: int) -> None:
    _, rates = schedule_of(24, peak=3e-3)
    assert schedule_of(24, done=done, peak=3e-3)[1] == rates[done:]


def test_one_cycle_rises_to_the_peak_and_falls_to_the_floor() -> None:
    optimizer, rates = schedule_of(1000)
    assert rates[0] == pytest.approx(0.04)
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) == 250
    assert rates[-1] < 2e-3
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)


def test_a_seed_gives_the_weights_and_batches_that_it_always_gave(tmp_path: Path) -> None:
    losses = []

    def stop(*step: float) -> None:
        losses.append(step[2])
        raise KeyboardInterrupt

    torch.manual_seed(7)
    network = SiameseNetwork(RECIPE.network).to(memory_format=torch.channels_last)
    run = TrainingRun(RECIPE, CHIPS, CHIPS, tmp_path / "w", seed=7)
    for key, value in run.network.state_dict().items():
        assert torch.equal(value, network.state_dict()[key]), key
    batch = RECIPE.batch(CHIPS, Generator().manual_seed(7_000_000))
    expected = RECIPE.objective.loss(network(batch.before, batch.after), batch).item()
    with pytest.raises(KeyboardInterrupt):
        run.run(stop)
    assert losses == [pytest.approx(expected, rel=1e-6)]


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_run_leaves_random_generators_and_threads_alone(tmp_path: Path, process_state, *, interrupted: bool) -> None:
    def stop(*_step: float) -> None:
        if interrupted:
            raise KeyboardInterrupt

    before = process_state()
    with contextlib.suppress(KeyboardInterrupt):
        run_in(tmp_path).run(stop)
    assert process_state() == before


def test_a_run_that_was_interrupted_can_go_on_by_itself(tmp_path: Path) -> None:
    run = run_in(tmp_path)

    def stop(step: int, _total: int, _loss: float) -> None:
        if step == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.run(stop)
    run.run()
    assert [epoch.epoch for epoch in run.history] == [1, 2, 3, 4]


def test_a_checkpoint_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    run = run_in(tmp_path / "folder")
    (tmp_path / "folder").rmdir()
    with pytest.raises(OutputError, match="cannot be written"):
        run.run()


def test_best_threshold_maximises_f1() -> None:
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.2])
    truth = torch.tensor([True, True, False, True, False])
    # F1 at 0.6 is 6/7, at 0.8 it is 4/5.
    assert _best_f1(scores, truth) == pytest.approx(0.6)
