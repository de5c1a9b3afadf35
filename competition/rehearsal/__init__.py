"""A zip is run as a scorer would run it, in a fresh, isolated process, and may hold only what a zip may hold."""
