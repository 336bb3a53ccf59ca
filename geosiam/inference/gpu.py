"""CUDA devices behind the threads that read: blocks wait in one queue and are scored several at a time.

A thread that has read a block hands it in and waits for its scores; the devices take what waits. Each device copies
the next blocks in while it computes those before, out of memory that the system leaves in place (pinned), and values
of 8 and 16 bits are copied as they are stored and looked up over there.
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

from geosiam.inference.preprocess import InputTransform, tabulated

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from geosiam.imagery.normalization import PixelTransform
    from geosiam.imagery.pair import StoredBlock
    from geosiam.network.siamese import SiameseNetwork

BLOCKS_AT_ONCE = 4
"""Blocks of one forward pass: always as many, so that the device computes each in the same way."""

_LOADS = 2  # one that is computed, and one that is on its way


@dataclass(frozen=True)
class _Request:
    """A block that waits for its scores; `values` are (2, 3, rows, cols), as they are copied to the device."""

    values: torch.Tensor
    transfers: tuple[PixelTransform, PixelTransform] | None  # None: the values are what the network takes
    stored: str
    invalid: torch.Tensor | None
    scores: Future[NDArray[np.float32]] = field(default_factory=Future)

    @property
    def kind(self) -> tuple[Any, ...]:
        """What the blocks of one forward pass have in common."""
        return self.transfers, self.stored


class GpuBatcher:
    """Scores blocks handed in by any number of threads.

    Parameters
    ----------
    network
        For inference, in its precision, channels last.
    dtype
        That precision.
    devices
        The devices that share the work; each gets a copy of the network.
    side
        Pixels along a side of the largest block, with its halo.
    """

    def __init__(self, network: SiameseNetwork, dtype: torch.dtype, devices: Sequence[torch.device], side: int) -> None:
        self.devices = tuple(devices)
        self._input_transform = InputTransform(dtype)
        self._waiting: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._side = side
        for device in devices:
            loads = _Loads(copy.deepcopy(network).to(device), dtype, device, side)
            threading.Thread(target=_serve, args=(self._waiting, loads), name=f"geosiam-{device}", daemon=True).start()
        self._finalizer = weakref.finalize(self, _stop, self._waiting, len(devices))

    def scores(self, block: StoredBlock) -> NDArray[np.float32]:
        """Return the anomaly probabilities of all cells of a block: float32 (rows, cols)."""
        rows, cols = block.valid.shape
        if max(rows, cols) > self._side:
            raise ValueError(f"a block of {rows} x {cols} pixels is larger than {self._side}")
        valid = block.valid.all()
        invalid = None if valid else torch.from_numpy(~block.valid)
        same = block.before.dtype == block.after.dtype
        if same and tabulated(block.transforms[0], block.before.dtype.str, torch.float32) is not None:
            # As bits: torch does not know all of these types everywhere.
            levels = [torch.from_numpy(image.view(f"i{image.itemsize}")) for image in (block.before, block.after)]
            request = _Request(torch.stack(levels), block.transforms, block.before.dtype.str, invalid)
        else:
            values = self._input_transform(block, slice(None), slice(None)).clone()
            request = _Request(values, None, "", invalid)
        self._waiting.put(request)
        return request.scores.result()

    def close(self) -> None:
        """End the threads once all that waits is scored."""
        self._finalizer()


def _stop(waiting: queue.SimpleQueue[_Request | None], count: int) -> None:
    for _ in range(count):
        waiting.put(None)


def _serve(waiting: queue.SimpleQueue[_Request | None], loads: _Loads) -> None:
    """Take what waits, load after load, and answer the one before while the next is on its way."""
    under_way: _Load | None = None
    kept: list[_Request] = []
    going = True
    while going or kept or under_way:
        requests, going = _taken(waiting, kept, patient=under_way is None) if going else (kept, False)
        batch = [request for request in requests if request.kind == requests[0].kind][:BLOCKS_AT_ONCE]
        kept = [request for request in requests if not any(request is taken for taken in batch)]
        sent = loads.send(batch) if batch else None
        if under_way:
            under_way.answer()
        under_way = sent


def _taken(
    waiting: queue.SimpleQueue[_Request | None], kept: list[_Request], *, patient: bool
) -> tuple[list[_Request], bool]:
    """Return requests for one load, waiting for the first one if there is nothing else to do; and whether to go on."""
    requests = list(kept)
    with contextlib.suppress(queue.Empty):
        while len(requests) < BLOCKS_AT_ONCE:
            request = waiting.get(block=patient and not requests)
            if request is None:
                return requests, False
            requests.append(request)
    return requests, True


@dataclass(frozen=True)
class _Load:
    """Blocks that a device works on."""

    requests: list[_Request]
    scores: torch.Tensor | None
    finished: torch.cuda.Event | None
    cells: list[tuple[int, int]]
    failed: Exception | None = None

    def answer(self) -> None:
        """Wait for the device and give each block its scores, or the reason why there are none."""
        try:
            scores = self._finished_scores()
        except Exception as error:  # noqa: BLE001 - it belongs to the threads that wait
            for request in self.requests:
                request.scores.set_exception(error)
            return
        for request, found, (rows, cols) in zip(self.requests, scores, self.cells, strict=False):
            request.scores.set_result(found[0, :rows, :cols].numpy().copy())

    def _finished_scores(self) -> torch.Tensor:
        if self.failed:
            raise self.failed
        if self.finished is not None:
            self.finished.synchronize()
        assert self.scores is not None
        return self.scores


class _Loads:
    """Makes loads for one device, in memory that is used in turn."""

    def __init__(self, network: SiameseNetwork, dtype: torch.dtype, device: torch.device, side: int) -> None:
        self._network, self._dtype, self._device, self._side = network, dtype, device, side
        self._cuda = device.type == "cuda"
        self._slots: list[dict[tuple[Any, ...], torch.Tensor]] = [{} for _ in range(_LOADS)]
        self._arrived: list[torch.cuda.Event | None] = [None] * _LOADS
        self._tables: dict[tuple[tuple[PixelTransform, PixelTransform], str], torch.Tensor] = {}
        self._copying = torch.cuda.Stream(device) if self._cuda else None  # type: ignore[no-untyped-call]
        self._turn = 0

    def send(self, requests: list[_Request]) -> _Load:
        """Start the work on a few blocks of one kind; nothing is waited for."""
        field_ = self._network.config.receptive_field
        cells = [(field_.cells(r.values.shape[2]), field_.cells(r.values.shape[3])) for r in requests]
        try:
            with torch.inference_mode(), _reproducible(), self._on_device():
                values, invalid = self._copied(requests)
                scores = self._scored(values, invalid, requests[0])
                finished = None
                if self._cuda:
                    scores = self._memory(scores.dtype, tuple(scores.shape)).copy_(scores, non_blocking=True)
                    finished = _event()
        except Exception as error:  # noqa: BLE001 - it belongs to the threads that wait
            return _Load(requests, None, None, cells, error)
        return _Load(requests, scores, finished, cells)

    @contextlib.contextmanager
    def _on_device(self) -> Iterator[None]:
        with torch.cuda.device(self._device) if self._cuda else contextlib.nullcontext():
            yield

    def _copied(self, requests: list[_Request]) -> tuple[torch.Tensor, torch.Tensor]:
        """Bring a load's values to the device: (2, blocks, 3, side, side), and where they are invalid."""
        self._turn = (self._turn + 1) % _LOADS
        arrived = self._arrived[self._turn]
        if arrived is not None:
            arrived.synchronize()  # before that the memory is still being read
        side = self._side
        values = self._memory(requests[0].values.dtype, (2, BLOCKS_AT_ONCE, 3, side, side))
        invalid = self._memory(torch.bool, (BLOCKS_AT_ONCE, side, side))
        invalid.fill_(True)  # noqa: FBT003 - a value
        for index, request in enumerate(requests):
            rows, cols = request.values.shape[2:]
            values[:, index, :, :rows, :cols] = request.values
            invalid[index, :rows, :cols] = False if request.invalid is None else request.invalid
        if not self._cuda:
            return values, invalid
        assert self._copying is not None
        with torch.cuda.stream(self._copying):
            there = values.to(self._device, non_blocking=True), invalid.to(self._device, non_blocking=True)
            event = _event()
        self._arrived[self._turn] = event
        computing = torch.cuda.current_stream(self._device)
        computing.wait_event(event)
        for tensor in there:
            tensor.record_stream(computing)
        return there

    def _memory(self, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
        slot, key = self._slots[self._turn], (dtype, shape)
        if key not in slot:
            slot[key] = torch.zeros(shape, dtype=dtype, pin_memory=self._cuda)
        return slot[key]

    def _scored(self, values: torch.Tensor, invalid: torch.Tensor, like: _Request) -> torch.Tensor:
        if like.transfers is not None:
            values = self._looked_up(values, like.transfers, like.stored)
        images = values.masked_fill(invalid[:, None], 0).flatten(0, 1)
        logits = self._network.compare(images.contiguous(memory_format=torch.channels_last))
        return torch.sigmoid(-logits.float())

    def _looked_up(
        self, levels: torch.Tensor, transfers: tuple[PixelTransform, PixelTransform], stored: str
    ) -> torch.Tensor:
        """Return what becomes of stored values (2, blocks, 3, side, side), in the network's precision."""
        key = (transfers, stored)
        if key not in self._tables:
            found = [tabulated(transfer, stored, self._dtype) for transfer in transfers]
            self._tables[key] = torch.stack([table for table in found if table is not None]).to(self._device)
        tables = self._tables[key]  # (2, 3, values)
        count = tables.shape[-1]
        first = torch.arange(0, tables.numel(), count, dtype=torch.int32, device=self._device).view(2, 1, 3, 1, 1)
        places = (levels.to(torch.int32) & (count - 1)) + first
        return tables.flatten().index_select(0, places.flatten()).view(levels.shape)


def _event() -> torch.cuda.Event:
    """Return what is reached when all that the current stream was told so far is done."""
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event


@contextlib.contextmanager
def _reproducible() -> Iterator[None]:
    """Let cuDNN choose the same algorithm each time, and multiply fp32 as fp32."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
