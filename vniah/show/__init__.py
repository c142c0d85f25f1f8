"""Shows one sample as the model sees it: a picture with its frames, and its texts and tokens."""
