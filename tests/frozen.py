"""Imported last by the process that others are forked from (tests/jobs.py).

The garbage collector does not search what is there by now: in each of the forks that takes half a
second, and copies the memory that they share.
"""

import gc

from PIL import Image

Image.init()  # its plugins, which the first picture that is saved would load
gc.freeze()
