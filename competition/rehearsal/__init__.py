"""A zip run as a scorer would run it: in a fresh, isolated process that knows nothing of this project."""
