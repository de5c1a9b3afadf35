"""What lies in the data and what a model sees in it: look, sanity, audit, shift, explain."""
