"""`python -m t2i.cli`, as `accelerate launch -m t2i.cli` needs it."""

import sys

from t2i.cli import main

sys.exit(main())
