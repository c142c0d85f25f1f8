"""Video files read at one frame per second."""
