"""Models: what one has to be, how one is found by name, and the families that vniah brings."""
