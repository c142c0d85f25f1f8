"""The long forward pass: attention in blocks, and the walk through a decoder layer by layer."""
