"""``python -m vniah``: the same as the command ``vniah``."""

import sys

# Python puts the working folder first, where any file may have the name of a package that vniah or
# one of its dependencies imports. With -P or PYTHONSAFEPATH it does not.
if not sys.flags.safe_path:
    del sys.path[0]

from vniah.cli import main

sys.exit(main())
