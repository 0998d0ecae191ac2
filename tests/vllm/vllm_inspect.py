"""Has vLLM look at the classes of models, and keep in its cache what it sees.

    VLLM_CACHE_ROOT=.vllm/cache .vllm/venv/bin/python tests/vllm/vllm_inspect.py FOLDER...

Else each first start of a model does that, in one more process with all of vLLM's imports.

It runs in vLLM's own environment, never in the project's. The names of vLLM's parts are those of
0.32.
"""

from __future__ import annotations

import os
import sys

os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}

from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.models import registry

if __name__ == "__main__":
    # In this process: nothing here has to be kept from a GPU.
    registry._run_in_subprocess = lambda look: look()
    for folder in sys.argv[1:]:
        EngineArgs(model=folder, dtype="bfloat16").create_model_config()
