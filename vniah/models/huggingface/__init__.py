"""Checkpoints in the layout of transformers: what all have in common (`base`) and one class each.

`vniah.models.families` says which class a ``model_type`` has.
"""
