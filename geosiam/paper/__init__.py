"""The seed paper's experiments, one module per figure or claim; :func:`geosiam.paper.api.reproduce` runs them."""
