"""Commands that run many trainings: rank, tune, study, simulate, demo, matrix."""
