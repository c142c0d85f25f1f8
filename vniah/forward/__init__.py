"""The forward pass over very long sequences: layer by layer, and many sequences in one tree."""
