"""From the user's images and labels to the fold table, the only thing that later stages know of the data."""
