"""The command line with small blocks, each of which takes a while, so that a run can be cancelled in the middle."""

import sys
import time

from geosiam.inference import executor as execution
from geosiam.inference import scorer as scoring
from geosiam.scores import writer as raster_writer
from geosiam_cli.main import main

scoring.BLOCK_PX = 64
raster_writer.FLUSH_SECONDS = 0.1
stream = execution.stream_scores


def slowly(*args, **keywords):
    """Take a tenth of a second for each block."""
    for block in stream(*args, **keywords):
        time.sleep(0.1)
        yield block


execution.stream_scores = slowly
sys.exit(main())
