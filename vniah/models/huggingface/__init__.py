"""Checkpoints in the layout of transformers: what all have in common (`base`) and one adapter each.

`vniah.models.families` says which adapter a ``model_type`` has.
"""
