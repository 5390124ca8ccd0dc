"""What was fitted: normal images with their features, kept in memory and in a folder."""
