"""The border to the data plane in Rust.

dataplane    a typed handle on the data plane: the only file that imports `_native`
documents    the Structs that it takes and gives
settings     `[server]` → the configuration of the data plane, from its start to its end
table        its table of the deployments, and its keys
rollout      a model whose instances differ, as they do while it is edited
pace         how often the table is published
outstanding  how many requests each instance has now
metrics      the metrics of the engines, for its page
log          Python's lines in its log
"""
