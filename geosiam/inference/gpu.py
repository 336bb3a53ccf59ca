"""Score blocks on CUDA devices in batches: reading threads put blocks into one queue that all devices take from.

A thread that has read a block queues it and waits for its scores. Each device copies the next batch from pinned memory
while it computes the one before; values of 8 and 16 bits are copied as they are stored and looked up on the device.
"""

from __future__ import annotations

import contextlib
import copy
import queue
import threading
import weakref
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from geosiam.imagery.normalization import PixelTransform
    from geosiam.imagery.pair import StoredBlock
    from geosiam.inference.torch_engine import InputTransform
    from geosiam.network.siamese import SiameseNetwork

BLOCKS_PER_BATCH = 4
"""Blocks of one forward pass: always the same number, so that scores do not depend on how many blocks were waiting."""

_SLOTS = 2  # pinned memory for one batch that is computed and one that is copied


@dataclass(frozen=True)
class _Request:
    """A block that waits for its scores.

    Parameters
    ----------
    values
        (2, 3, rows, cols), as they are copied to the device.
    transforms
        Pixel transforms of both scenes, to apply on the device; None: the values are the network's input already.
    stored
        Type of the values that the scenes store, as numpy abbreviates it; empty without transforms.
    invalid
        bool (rows, cols); None: all pixels are valid.
    scores
        Anomaly probabilities, float32 (rows, cols), once they are computed.
    """

    values: torch.Tensor
    transforms: tuple[PixelTransform, PixelTransform] | None
    stored: str
    invalid: torch.Tensor | None
    scores: Future[NDArray[np.float32]] = field(default_factory=Future)

    @property
    def batch_key(self) -> tuple[Any, ...]:
        """Properties that all blocks of a batch must share."""
        return self.transforms, self.stored


class GpuBatcher:
    """Score blocks of any number of threads on CUDA devices, in batches.

    One thread for each device starts at once; :meth:`close` ends them, and so does the garbage collector.

    Parameters
    ----------
    network
        Network for inference, in its precision, channels last.
    input_transform
        Makes the network's input, in the precision of the forward pass.
    devices
        Devices that share the work; each gets a copy of the network.
    side
        Side of the largest block with its halo, in pixels.
    """

    def __init__(
        self, network: SiameseNetwork, input_transform: InputTransform, devices: Sequence[torch.device], side: int
    ) -> None:
        self.devices = tuple(devices)
        self._input_transform = input_transform
        self._waiting: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._side = side
        self._threads: list[threading.Thread] = []
        for device in devices:
            batches = _Batches(copy.deepcopy(network).to(device), input_transform, device, side)
            thread = threading.Thread(
                target=_serve, args=(self._waiting, batches), name=f"geosiam-{device}", daemon=True
            )
            thread.start()
            self._threads.append(thread)
        self._stop = weakref.finalize(self, _stop, self._waiting, len(devices))

    def scores(self, block: StoredBlock) -> NDArray[np.float32]:
        """Return the anomaly probabilities of all cells of a block: float32 (rows, cols)."""
        if not self._stop.alive:
            raise RuntimeError("the GPU batcher is closed")
        rows, cols = block.valid.shape
        if max(rows, cols) > self._side:
            raise ValueError(f"a block of {rows} x {cols} pixels is larger than {self._side} x {self._side}")
        invalid = None if block.valid.all() else torch.from_numpy(~block.valid)
        same_type = block.before.dtype == block.after.dtype
        if same_type and self._input_transform.table(block.transforms[0], block.before.dtype.str) is not None:
            # As signed integers of the same bits: PyTorch lacks operators for some of these types.
            levels = [torch.from_numpy(image.view(f"i{image.itemsize}")) for image in (block.before, block.after)]
            request = _Request(torch.stack(levels), block.transforms, block.before.dtype.str, invalid)
        else:
            values = self._input_transform(block, slice(None), slice(None)).clone()
            request = _Request(values, None, "", invalid)
        self._waiting.put(request)
        return request.scores.result()

    def close(self) -> None:
        """End the threads when all waiting blocks are scored; without effect the second time."""
        self._stop()
        for thread in self._threads:
            thread.join()


def _stop(waiting: queue.SimpleQueue[_Request | None], count: int) -> None:
    for _ in range(count):
        waiting.put(None)


def _serve(waiting: queue.SimpleQueue[_Request | None], batches: _Batches) -> None:
    """Take waiting requests batch by batch, and deliver the scores of one batch while the next is computed."""
    running: _Batch | None = None
    postponed: list[_Request] = []
    is_open = True
    while is_open or postponed or running:
        requests, is_open = _take(waiting, postponed, block=running is None) if is_open else (postponed, False)
        batch = [request for request in requests if request.batch_key == requests[0].batch_key][:BLOCKS_PER_BATCH]
        postponed = [request for request in requests if not any(request is member for member in batch)]
        started = batches.start(batch) if batch else None
        if running:
            running.deliver()
        running = started


def _take(
    waiting: queue.SimpleQueue[_Request | None], postponed: list[_Request], *, block: bool
) -> tuple[list[_Request], bool]:
    """Return requests for one batch, and whether more may come.

    Parameters
    ----------
    waiting
        The queue; None in it says that no more requests come.
    postponed
        Requests taken before that did not fit into a batch.
    block
        Whether to wait for the first request.
    """
    requests = list(postponed)
    with contextlib.suppress(queue.Empty):
        while len(requests) < BLOCKS_PER_BATCH:
            request = waiting.get(block=block and not requests)
            if request is None:
                return requests, False
            requests.append(request)
    return requests, True


@dataclass(frozen=True)
class _Batch:
    """A batch of blocks that a device computes.

    Parameters
    ----------
    requests
        The requests for the blocks of the batch.
    scores
        float32 (blocks, 1, rows, cols), complete when the device has reached `finished`; None after an error.
    finished
        Event of a CUDA device; None: the scores are complete.
    cells
        Rows and columns of each block's scores.
    error
        The error to deliver instead of scores; None: there is none.
    """

    requests: list[_Request]
    scores: torch.Tensor | None
    finished: torch.cuda.Event | None
    cells: list[tuple[int, int]]
    error: Exception | None = None

    def deliver(self) -> None:
        """Wait for the device and give each request its scores, or the error."""
        try:
            scores = self._finished_scores()
        except Exception as error:  # noqa: BLE001 - raised in the waiting threads
            for request in self.requests:
                request.scores.set_exception(error)
            return
        for request, block, (rows, cols) in zip(self.requests, scores, self.cells, strict=False):
            request.scores.set_result(block[0, :rows, :cols].numpy().copy())

    def _finished_scores(self) -> torch.Tensor:
        if self.error:
            raise self.error
        if self.finished is not None:
            self.finished.synchronize()
        assert self.scores is not None
        return self.scores


class _Batches:
    """Compute batches on one device; they use two slots of pinned memory in turn."""

    def __init__(
        self, network: SiameseNetwork, input_transform: InputTransform, device: torch.device, side: int
    ) -> None:
        self._network, self._input_transform, self._device, self._side = network, input_transform, device, side
        self._cuda = device.type == "cuda"
        self._slots: list[dict[tuple[Any, ...], torch.Tensor]] = [{} for _ in range(_SLOTS)]
        self._copied: list[torch.cuda.Event | None] = [None] * _SLOTS
        self._tables: dict[tuple[tuple[PixelTransform, PixelTransform], str], torch.Tensor] = {}
        self._copy_stream = torch.cuda.Stream(device) if self._cuda else None  # type: ignore[no-untyped-call]
        self._turn = 0

    def start(self, requests: list[_Request]) -> _Batch:
        """Start to compute blocks of one batch key, without waiting for anything."""
        receptive_field = self._network.config.receptive_field
        shapes = [request.values.shape[2:] for request in requests]
        cells = [(receptive_field.cells(rows), receptive_field.cells(cols)) for rows, cols in shapes]
        try:
            with torch.inference_mode(), _reproducible(), self._on_device():
                values, invalid = self._to_device(requests)
                scores = self._forward(values, invalid, requests[0])
                finished = None
                if self._cuda:
                    scores = self._pinned(scores.dtype, tuple(scores.shape)).copy_(scores, non_blocking=True)
                    finished = _event()
        except Exception as error:  # noqa: BLE001 - raised in the waiting threads
            return _Batch(requests, None, None, cells, error)
        return _Batch(requests, scores, finished, cells)

    @contextlib.contextmanager
    def _on_device(self) -> Iterator[None]:
        with torch.cuda.device(self._device) if self._cuda else contextlib.nullcontext():
            yield

    def _to_device(self, requests: list[_Request]) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy values to the device: (2, blocks, 3, side, side); and where they are invalid: (blocks, side, side)."""
        self._turn = (self._turn + 1) % _SLOTS
        copied = self._copied[self._turn]
        if copied is not None:
            copied.synchronize()  # until then the slot is still being read
        side = self._side
        values = self._pinned(requests[0].values.dtype, (2, BLOCKS_PER_BATCH, 3, side, side))
        invalid = self._pinned(torch.bool, (BLOCKS_PER_BATCH, side, side))
        invalid.fill_(True)  # noqa: FBT003 - a value
        for index, request in enumerate(requests):
            rows, cols = request.values.shape[2:]
            values[:, index, :, :rows, :cols] = request.values
            invalid[index, :rows, :cols] = False if request.invalid is None else request.invalid
        if not self._cuda:
            return values, invalid
        assert self._copy_stream is not None
        with torch.cuda.stream(self._copy_stream):
            on_device = values.to(self._device, non_blocking=True), invalid.to(self._device, non_blocking=True)
            event = _event()
        self._copied[self._turn] = event
        computing = torch.cuda.current_stream(self._device)
        computing.wait_event(event)
        for tensor in on_device:
            tensor.record_stream(computing)
        return on_device

    def _pinned(self, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
        slot, key = self._slots[self._turn], (dtype, shape)
        if key not in slot:
            slot[key] = torch.zeros(shape, dtype=dtype, pin_memory=self._cuda)
        return slot[key]

    def _forward(self, values: torch.Tensor, invalid: torch.Tensor, request: _Request) -> torch.Tensor:
        if request.transforms is not None:
            values = self._look_up(values, request.transforms, request.stored)
        images = values.masked_fill(invalid[:, None], 0).flatten(0, 1)
        logits = self._network.compare(images.contiguous(memory_format=torch.channels_last))
        return torch.sigmoid(-logits.float())

    def _look_up(
        self, levels: torch.Tensor, transforms: tuple[PixelTransform, PixelTransform], stored: str
    ) -> torch.Tensor:
        """Look up the network's input for stored values (2, blocks, 3, side, side), in its precision."""
        key = (transforms, stored)
        if key not in self._tables:
            tables = [self._input_transform.table(transform, stored) for transform in transforms]
            self._tables[key] = torch.stack([table for table in tables if table is not None]).to(self._device)
        table = self._tables[key]  # (2, 3, levels)
        count = table.shape[-1]
        offsets = torch.arange(0, table.numel(), count, dtype=torch.int32, device=self._device).view(2, 1, 3, 1, 1)
        indices = (levels.to(torch.int32) & (count - 1)) + offsets
        return table.flatten().index_select(0, indices.flatten()).view(levels.shape)


def _event() -> torch.cuda.Event:
    """Return an event that the current stream reaches after the work queued so far."""
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event


@contextlib.contextmanager
def _reproducible() -> Iterator[None]:
    """Let cuDNN choose the same algorithm each time, and not round fp32 to TF32."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
