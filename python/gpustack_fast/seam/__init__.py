"""What crosses to the data plane in Rust.

dataplane  a typed handle on the data plane: the only file that imports `_native`
documents  the Structs that it takes and gives
settings   `[server]` → what the data plane knows from its start to its end
table      its table of the deployments, and its keys
metrics    the metrics of the engines, for its page
"""
