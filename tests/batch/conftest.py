"""Helpers that tests of batches share with those of the pipeline."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "pipeline"))  # same_result
