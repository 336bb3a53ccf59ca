"""Batches of many pairs: pair the scenes, run all pairs even if some fail, and collect the results."""
