"""Engines: who answers samples. One per kind of model, with planning and a check of its own."""
