"""What comes after a run: statistics, comparisons, pictures."""
