"""A sweep's samples as a data set for others, and their answers as a run."""
