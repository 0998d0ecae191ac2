"""`python -m gpustack_fast` is `gpustack-fast`."""

import sys

from gpustack_fast.commands.parser import main

sys.exit(main())
