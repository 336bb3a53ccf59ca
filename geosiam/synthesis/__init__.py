"""Scenes that were never flown: survey pairs with known truth, and anomalies inserted into real scenes."""
