"""Accuracy: metrics, ground truth, classical baselines, and verdicts of analysts."""
