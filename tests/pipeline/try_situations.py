"""Try situations again, one or many.

python tests/pipeline/try_situations.py SEED NUMBER           one, and keep its files
python tests/pipeline/try_situations.py SEED FIRST LAST       many; exits with 1 if anything is wrong
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported; as the program does
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]  # as pytest does


def main() -> int:
    """Print what is wrong, with the situation."""
    from situation_check import checked, described, draw

    seed, first, *last = map(int, sys.argv[1:])
    if not last:
        folder = Path(tempfile.mkdtemp(prefix="situation."))
        text = checked(seed, first, folder)
        print(text or f"{described(draw(seed, first))}\nas it should be", f"files: {folder}", sep="\n")  # noqa: T201
        return bool(text)
    start, wrong = time.monotonic(), 0
    for number in range(first, last[0]):
        text = checked(seed, number)
        wrong += bool(text)
        if text or number % 50 == 49:
            done = f"{number + 1 - first} of {last[0] - first} in {time.monotonic() - start:.0f} s, {wrong} wrong"
            print(f"{text}\n{done}\n", flush=True)  # noqa: T201
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
