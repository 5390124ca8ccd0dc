"""How well scores separate normal from anomalous, and the uncertainty of the metrics."""
