"""A sweep runs every sample of a grid once, in one process or many."""
