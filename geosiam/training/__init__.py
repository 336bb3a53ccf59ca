"""Chips, inserted anomalies, nuisance, recipes and the loop that turns them into weights."""
