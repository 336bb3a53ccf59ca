"""How good a result is: metrics, and the picture that shows it."""
