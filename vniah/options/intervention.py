"""The name by which runs know the samples that were run again with a changed model."""

APPLIED = "applied"
"""The control that runs every sample of the test once more, with what ``--apply`` names."""
