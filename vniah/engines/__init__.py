"""Engines run samples: one for each kind of model, with its own planning and its own check."""
