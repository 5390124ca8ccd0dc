"""Stage 3, how: the exact search, by branch and bound, by projections, or by comparing all pairs."""
