"""What is asked: each task turns a grid and its material into questions."""
