"""What the toolkit costs, beside what a user would otherwise run: `make bench`."""
