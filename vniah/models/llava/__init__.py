"""Checkpoints in the original layout of LLaVA-NeXT and LongVA."""
