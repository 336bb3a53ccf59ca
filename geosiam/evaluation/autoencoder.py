"""The baseline of the seed paper's predecessors: what an autoencoder of the template cannot reproduce is anomalous.

After Hawkins, He, Williams and Baxter, "Outlier detection using replicator neural networks" (2002), with convolutions.
It learns one template, or a few, and sees the second scene only; a new template asks for a new training.
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
    """Three strided convolutions to a code of few channels, and back: (n, 3, h, w) -> (n, 3, h, w), sides in 8 px.

    Parameters
    ----------
    width
        Channels of the first convolution; the next ones have twice as many.
    code
        Channels of the code, of which there is one vector for 8 x 8 pixels: the narrower, the less it can reproduce
        what it has not learnt.
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
        Batches of 16 chips of 64 px.
    seed
        Of weights and crops.
    """
    torch.manual_seed(seed)
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
    """Return how badly an image is reproduced.

    Parameters
    ----------
    image
        uint8 (3, rows, cols).
    smooth_px
        Side of the square that the error is averaged over: single pixels of texture are no objects.

    Returns
    -------
    float32 (rows, cols), mean absolute error over the channels, 0 to 1
    """
    rows, cols = image.shape[1:]
    pixels: Tensor = torch.from_numpy(np.ascontiguousarray(image))[None].float() / 255
    filled = pad(pixels, (0, -cols % _STRIDE, 0, -rows % _STRIDE), mode="replicate")
    error = (model(filled)[:, :, :rows, :cols] - pixels).abs().mean(dim=1)[0].numpy()
    smoothed: NDArray[Any] = uniform_filter(error, smooth_px, mode="nearest")
    return smoothed.astype(np.float32)
