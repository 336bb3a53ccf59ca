"""Surveys of many pairs: which scenes belong together, the pairs run to the end, and what came of all of them."""
