"""The baseline of the seed paper's predecessors: pixels that an autoencoder cannot reproduce are anomalous.

After Hawkins, He, Williams and Baxter, "Outlier detection using replicator neural networks" (2002), with convolutions.
The autoencoder is trained on one or a few template scenes and sees the second scene only; a new template requires a new
training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.ndimage import uniform_filter
from torch import Generator, Tensor, nn
from torch.nn.functional import mse_loss, pad

from geosiam.training.loop import one_cycle
from geosiam.training.sources import SceneStack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CHIP_PX = 64
BATCH = 16
LEARNING_RATE = 2e-3
_STRIDE = 8


class Autoencoder(nn.Sequential):
    """Three strided convolutions to a code of few channels, and back.

    It maps (n, 3, h, w) to (n, 3, h, w); h and w are multiples of 8.

    Parameters
    ----------
    width
        Number of channels of the first convolution; the next ones have twice as many.
    code
        Number of channels of the code, which has one vector per 8 x 8 pixels: the fewer, the less can be reproduced
        that was not in the training images.
    """

    def __init__(self, width: int = 16, code: int = 8) -> None:
        super().__init__(
            nn.Conv2d(3, width, 4, 2, 1), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 4, 2, 1), nn.ReLU(),
            nn.Conv2d(2 * width, code, 4, 2, 1),
            nn.ConvTranspose2d(code, 2 * width, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(width, 3, 4, 2, 1), nn.Sigmoid(),
        )  # fmt: skip


def train_autoencoder(images: Sequence[NDArray[np.uint8]], *, steps: int = 400, seed: int = 0) -> Autoencoder:
    """Train an autoencoder on crops of images that hold no anomaly.

    Parameters
    ----------
    images
        uint8, each (3, rows, cols).
    steps
        Number of batches of 16 chips of 64 px.
    seed
        Seed of the initial weights and of the crops. PyTorch's global generator stays as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would change the generators of all GPUs, too
        model = Autoencoder()
    source = SceneStack([torch.from_numpy(np.ascontiguousarray(image)) for image in images])
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    generator = Generator().manual_seed(seed)
    learning_rate = one_cycle(optimizer, LEARNING_RATE, steps)
    for _ in range(steps):
        chips = source.sample(BATCH, CHIP_PX, generator)
        loss = mse_loss(model(chips), chips)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        learning_rate.step()
    return model.eval()


@torch.inference_mode()
def reconstruction_error(model: Autoencoder, image: NDArray[np.uint8], smooth_px: int = 5) -> NDArray[np.float32]:
    """Return the reconstruction error of an image.

    Parameters
    ----------
    image
        uint8 (3, rows, cols).
    smooth_px
        Side of the square over which the error is averaged, since single pixels of texture are not objects.

    Returns
    -------
    float32 (rows, cols): mean absolute error over the channels, 0 to 1
    """
    rows, cols = image.shape[1:]
    pixels: Tensor = torch.from_numpy(np.ascontiguousarray(image))[None].float() / 255
    padded = pad(pixels, (0, -cols % _STRIDE, 0, -rows % _STRIDE), mode="replicate")
    error = (model(padded)[:, :, :rows, :cols] - pixels).abs().mean(dim=1)[0].numpy()
    smoothed: NDArray[Any] = uniform_filter(error, smooth_px, mode="nearest")
    return smoothed.astype(np.float32)
