"""Engines' own environments: isolated, pinned, several versions side by side.

The router's own environment never carries an engine.

    documents      what the others hand around
    recipes        what can be built: `backends/locks/NAME.toml`, and the files that it names
    places         where environments lie in the data directory
    uv_runs        uv as a child: its progress, its end, and its complaints in sentences
    preconditions  what a machine has to have
    resolving      locks for versions that have none
    registered     environments of somebody else's, known by the path of their interpreter
    building       one build, beside others
    preparing      what a model needs → an environment that is there
    users          who runs from an environment
    listing        what is there, and who uses it
    removal        takes one away
"""

from __future__ import annotations

from gpustack_fast.engines.environments.documents import BuildError, Environment, Report
from gpustack_fast.engines.environments.listing import Listed, listing
from gpustack_fast.engines.environments.preparing import default_interpreter, prepare
from gpustack_fast.engines.environments.registered import of_interpreter, register
from gpustack_fast.engines.environments.removal import remove

__all__ = [
    "BuildError",
    "Environment",
    "Listed",
    "Report",
    "default_interpreter",
    "listing",
    "of_interpreter",
    "prepare",
    "register",
    "remove",
]
