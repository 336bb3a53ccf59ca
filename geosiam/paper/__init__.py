"""The seed paper's experiments, one module a figure or claim; :func:`geosiam.paper.api.reproduce` runs them."""
