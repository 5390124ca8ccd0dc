"""The fitted normal images with their features, in memory and in a folder."""
