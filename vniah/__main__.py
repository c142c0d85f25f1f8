"""``python -m vniah``: the same as the command ``vniah``."""

import sys

from vniah.cli import main

sys.exit(main())
