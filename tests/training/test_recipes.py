import numpy as np
import pytest
import torch
from torch import Generator

from geosiam.errors import OptionError
from geosiam.network.architecture import NetworkConfig, ReceptiveField
from geosiam.training.recipes import (
    LEAST_COVER_OF_8_PX,
    PaperRecipe,
    Schedule,
    SurveyRecipe,
    dense_labels,
    label_cells,
    make_recipe,
    share_labels,
)
from geosiam.training.sources import ChipStack

CHIPS = ChipStack(torch.randint(200, (40, 3, 32, 32), dtype=torch.uint8, generator=Generator().manual_seed(0)))


def test_paper_pairs_are_similar_exactly_if_both_or_neither_is_anomalous() -> None:
    batch = PaperRecipe().batch(CHIPS, Generator().manual_seed(3))
    blue = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
    states = [(image == blue).all(dim=1).flatten(1).any(dim=1) for image in (batch.before, batch.after)]
    assert torch.equal(batch.similar.flatten() == 1, states[0] == states[1])
    assert batch.similar.shape == (256, 1, 1, 1)
    assert batch.weight.all()
    for state in states:
        assert 0.35 < state.float().mean() < 0.65


@pytest.mark.parametrize(("stride", "subcells", "cells"), [(8, 1, 9), (4, 1, 17), (4, 2, 32)])
def test_survey_batches_label_every_cell(stride: int, subcells: int, cells: int) -> None:
    recipe = make_recipe("survey", stride=stride, subcells=subcells)
    batch = recipe.batch(CHIPS, Generator().manual_seed(0))
    assert batch.before.shape == batch.after.shape == (28, 3, 96, 96)
    assert batch.similar.shape == batch.weight.shape == (28, 1, cells, cells)
    assert 0.03 < (batch.similar == 0).float().mean() < 0.5
    assert batch.weight.mean() > 0.8


@pytest.mark.parametrize(("scales", "side", "count"), [((1, 2), 144, 25), ((1, 2, 4), 288, 7)])
def test_chips_of_several_scales_have_about_as_many_labels_and_larger_objects(
    scales: tuple[int, ...], side: int, count: int
) -> None:
    recipe = make_recipe("survey", scales=scales)
    assert isinstance(recipe, SurveyRecipe)
    batch = recipe.batch(CHIPS, Generator().manual_seed(0))
    assert batch.before.shape == (count, 3, side, side)
    assert 0.8 < batch.similar.numel() / (28 * 32 * 32) < 1.2
    assert side >= 1.75 * recipe.network.receptive_field.size
    smallest, largest = recipe.anomalies.size_px
    assert (smallest, largest / side) == (3.5, pytest.approx(80 / 96))


def test_survey_objects_appear_at_either_date() -> None:
    recipe = SurveyRecipe(schedule=Schedule(epochs=1, steps=1, batch_size=64))
    plain = ChipStack(torch.full((2, 3, 64, 64), 128, dtype=torch.uint8))
    batch = recipe.batch(plain, Generator().manual_seed(0))
    rough = [image.flatten(1).std(dim=1) for image in (batch.before, batch.after)]
    assert (rough[0] > 1.5 * rough[1]).any()
    assert (rough[1] > 1.5 * rough[0]).any()


def test_dense_labels_look_at_a_cells_own_pixels_only() -> None:
    cover = torch.zeros(1, 1, 48, 48)
    cover[0, 0, 20:28, 12:20] = 1.0  # exactly the own pixels of cell (1, 0)
    cover[0, 0, 12, 28] = 1.0  # one pixel of cell (0, 2): too little to be sure
    cover[0, 0, 30, 30] = 0.5  # undecided, in cell (2, 2)
    cover[0, 0, :12] = 1.0  # the margin belongs to no cell
    similar, weight = dense_labels(cover, ReceptiveField(32, 8), LEAST_COVER_OF_8_PX)
    assert similar[0, 0].tolist() == [[1, 1, 1], [0, 1, 1], [1, 1, 1]]
    assert weight[0, 0].tolist() == [[1, 1, 0], [1, 1, 1], [1, 1, 0]]


def test_dense_labels_leave_out_what_is_a_matter_of_taste() -> None:
    field = NetworkConfig.of_stride(4).receptive_field
    cover = torch.zeros(1, 1, 32, 32)
    start = field.offset
    covered = (0, 3, 4, 5, 7, 8, 16)  # of the 16 pixels of the only cell
    judged = []
    for pixels in covered:
        cover[:] = 0
        cover[..., start : start + 4, start : start + 4] = (torch.arange(16) < pixels).float().view(4, 4)
        similar, weight = dense_labels(cover, field, 0.5)
        judged.append("left out" if weight.item() == 0 else "similar" if similar.item() else "anomalous")
    assert judged == ["similar"] * 3 + ["left out"] * 2 + ["anomalous"] * 2


def test_share_labels_are_certain_below_a_quarter_and_above_three() -> None:
    field = NetworkConfig.of_stride(4).receptive_field
    cover = torch.zeros(1, 1, 32, 32)
    own = cover[..., field.offset : field.offset + 4, field.offset : field.offset + 4]
    expected = {(0, 0): 1, (4, 0): 1, (6, 0): 0.75, (8, 0): 0.5, (12, 0): 0, (16, 0): 0, (6, 4): 0.5, (0, 16): 0.5}
    for (anomalous, undecided), normal in expected.items():
        own[:] = (torch.arange(16) < anomalous).float().view(4, 4)
        own += ((torch.arange(16) >= anomalous) & (torch.arange(16) < anomalous + undecided)).float().view(4, 4) / 2
        similar, weight = share_labels(cover, field)
        assert similar.item() == normal
        assert weight.item() == 1 - undecided / 16


def test_a_network_that_says_the_share_draws_the_outline_where_the_object_ends() -> None:
    """Of an edge at any place between cells, half a score lies there to a quarter of a pixel."""
    field = NetworkConfig.of_stride(4, subcells=2).receptive_field
    side = 16 * field.stride + field.size - field.stride
    for place in range(8, 16):
        cover = torch.zeros(1, 1, side, side)
        cover[..., : field.offset + place] = 1
        similar, _ = share_labels(cover, field)
        scores = 1 - similar[0, 0, 0]
        last = int((scores >= 0.5).nonzero().max())
        beyond, here = scores[last + 1].item(), scores[last].item()
        crossing = last + 0.5 + (here - 0.5) / (here - beyond)
        assert abs(crossing * field.stride - place) <= 0.25 * field.stride


def test_an_object_of_5_px_covers_enough_of_some_cell_wherever_it_lies() -> None:
    for stride in (2, 4, 8):
        for row, col in np.ndindex(stride, stride):
            cover = torch.zeros(1, 1, 3 * stride, 3 * stride)
            cover[..., row + stride // 2 : row + stride // 2 + 5, col + stride // 2 : col + stride // 2 + 5] = 1
            similar, weight = label_cells(cover, ReceptiveField(stride, stride), None)
            assert ((similar < 0.5) & (weight == 1)).any()


def test_unknown_recipes_and_strides_are_refused() -> None:
    with pytest.raises(OptionError, match="use one of paper, survey"):
        make_recipe("soup")
    with pytest.raises(OptionError, match="use 8 or 4"):
        make_recipe("paper", stride=3)
    with pytest.raises(OptionError, match="needs chips of 36 px"):
        make_recipe("paper", subcells=2)
