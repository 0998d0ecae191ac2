"""What vLLM's own parser makes of words behind `vllm serve`.

    .vllm/venv/bin/python tests/vllm/vllm_parse.py LINES

`LINES`: a list of lists of words, in JSON. It prints as many documents, in a list: the options, or
why the words were refused.

It runs in vLLM's own environment, never in the project's.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser


def parse(parser: Any, words: list[str]) -> dict[str, Any]:
    try:
        parsed = parser.parse_args(words)
        parsed.subparser = "serve"
        validate_parsed_serve_args(parsed)
    except SystemExit as error:
        return {"refused": error.code}
    except (TypeError, ValueError) as error:
        return {"refused": str(error)}
    options = {
        name: value
        for name, value in vars(parsed).items()
        if isinstance(value, (str, int, float, list, type(None))) and name != "lora_modules"
    }
    return {**options, "adapters": [one.name for one in parsed.lora_modules or []]}


if __name__ == "__main__":
    parser = make_arg_parser(FlexibleArgumentParser())
    found = [parse(parser, words) for words in json.loads(sys.argv[1])]
    print(json.dumps(found, default=str))
