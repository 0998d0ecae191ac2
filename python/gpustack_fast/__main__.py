"""`python -m gpustack_fast` is `gpustack-fast`."""

import sys

from gpustack_fast.cli import main

sys.exit(main())
