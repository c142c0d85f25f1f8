"""The recipe of the embedded reference models: drawn world, tower, language model, export."""
