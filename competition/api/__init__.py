"""The Python API: a Competition is a folder, its methods are the commands, its results are objects to look at."""
