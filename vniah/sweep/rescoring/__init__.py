"""Judges the answers of a run anew, by other rules, without a model."""
