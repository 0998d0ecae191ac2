"""The configuration, and the way from files, variables and flags into it.

schema      the Structs: Config, ModelConfig, RouteConfig …
server      the Structs of `[server]`
deployment_fields  fields of GPUStack's deployments that are not here, and why
rules       rules between them, and those that a type cannot say
reading     a TOML file → Config
settings    flags and environment variables over `[server]`, generated from ServerConfig
model_fields  what a change of each field of a model comes to
comparison  what runs, and what was read now → what holds from now on
source      the way in, which can be gone again
files       the files that it names, looked at by `check`
warnings    what it may say, but nobody can mean
secrets     named by the configuration but not in it: keys of others' engines, files for TLS
certificate what is said of the time of a certificate
durations   times with a unit
sentences   wrong values in words
"""

from gpustack_fast.config.schema import (
    SOURCE_FIELDS,
    AdapterConfig,
    Config,
    GpuSelectorConfig,
    ModelConfig,
    ReplicasConfig,
    RouteConfig,
    ServeOptions,
    TargetConfig,
)
from gpustack_fast.config.server import CorsConfig, LimitsConfig, ServerConfig, TimeoutsConfig

__all__ = [
    "SOURCE_FIELDS",
    "AdapterConfig",
    "Config",
    "CorsConfig",
    "GpuSelectorConfig",
    "LimitsConfig",
    "ModelConfig",
    "ReplicasConfig",
    "RouteConfig",
    "ServeOptions",
    "ServerConfig",
    "TargetConfig",
    "TimeoutsConfig",
]
