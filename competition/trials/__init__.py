"""Programmes of many runs: ranking, tuning, the study, simulated competitions, the demo, the matrix."""
