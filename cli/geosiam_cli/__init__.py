"""The command line of geosiam: the only place that prints, exits or imports click."""
