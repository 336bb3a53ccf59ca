"""Which worker of a cluster scores which part of a scene."""

from __future__ import annotations


class Shares:
    """Places in an order, shared out such that a worker gets neighbours, and none is idle while others have some left.

    Each worker goes through a share of its own, in order: what it has decoded for one block is there for the next ones.
    Who has done with it takes the share that nobody has begun, or else the second half of the longest one left.

    Parameters
    ----------
    count
        Number of places.
    workers
        How many there are to begin with; any number may come, and those that leave leave theirs to the others.
    """

    def __init__(self, count: int, workers: int) -> None:
        workers = max(1, min(workers, count))
        bounds = [count * number // workers for number in range(workers + 1)]
        self._free = [range(*bounds[number : number + 2]) for number in reversed(range(workers))]
        self._left: dict[str, range] = {}

    def take(self, worker: str, most: int) -> range:
        """Return the next places of a worker, at most so many; an empty range if there is nothing left for anybody."""
        left = self._left.get(worker) or self._another()
        self._left[worker] = left[most:]
        return left[:most]

    def _another(self) -> range:
        if self._free:
            return self._free.pop()
        longest = max(self._left, key=lambda worker: len(self._left[worker]), default=None)
        if longest is None:
            return range(0)
        left = self._left[longest]
        self._left[longest] = left[: len(left) // 2]
        return left[len(left) // 2 :]
