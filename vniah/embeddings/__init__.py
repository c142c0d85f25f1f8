"""Encoded frames: made by a model, and cached on disk."""
