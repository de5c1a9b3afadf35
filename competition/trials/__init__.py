"""Commands that run many trainings: rank, tune, study, simulate, demo, matrix.

These are more than a dozen files, as the study, the search and the sample competition have two to four files each.
"""
