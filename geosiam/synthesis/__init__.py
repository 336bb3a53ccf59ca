"""Synthetic pairs with known truth, and anomalies inserted into real scenes."""
