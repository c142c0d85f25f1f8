"""The recipe of the embedded reference model: drawn world, vision tower, language model, export."""
