"""The task ``vqa``: multiple-choice questions about videos, which are sampled uniformly."""
