"""The command line with small blocks, each of which takes a while, so that a run can be cancelled in the middle."""

import sys
import time

from geosiam.inference import executor, scorer
from geosiam.scores import writer
from geosiam_cli.main import main

scorer.BLOCK_PX = 64
writer.FLUSH_SECONDS = 0.1
stream = executor.stream_scores


def slowly(*args, **keywords):
    """Take a tenth of a second for each block."""
    for block in stream(*args, **keywords):
        time.sleep(0.1)
        yield block


executor.stream_scores = slowly
sys.exit(main())
