"""The configuration: what a user may write, and the way from files, variables and flags into it.

shape       the Structs: Config, ModelConfig, RouteConfig …
server      the Structs of `[server]`
rules       what must hold between them, and what a type cannot say
file        a TOML file → Config; every error names the file, the line and the fix
settings    flags and environment variables over `[server]`, generated from ServerConfig
toml_lines  where each key of a TOML text stands
sentences   wrong values in words
"""

from gpustack_fast.config.server import CorsConfig, LimitsConfig, ServerConfig, TimeoutsConfig
from gpustack_fast.config.shape import (
    BACKENDS,
    SOURCE_FIELDS,
    Config,
    Engine,
    ModelConfig,
    RouteConfig,
    ServeOptions,
    TargetConfig,
)

__all__ = [
    "BACKENDS",
    "SOURCE_FIELDS",
    "Config",
    "CorsConfig",
    "Engine",
    "LimitsConfig",
    "ModelConfig",
    "RouteConfig",
    "ServeOptions",
    "ServerConfig",
    "TargetConfig",
    "TimeoutsConfig",
]
