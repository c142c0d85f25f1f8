"""Several runs by one command: models x films x tasks x RoPEs, or checkpoints as they appear."""
