"""A sweep: every sample of a grid asked once, over one process or many."""
