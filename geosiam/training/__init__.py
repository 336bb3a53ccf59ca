"""Train the network: chips, inserted anomalies, nuisance, recipes, the training loop and calibration."""
