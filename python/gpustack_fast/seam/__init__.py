"""What crosses to the data plane in Rust.

dataplane  a typed handle on the data plane: the only file that imports `_native`
documents  what it takes and gives
settings   `[server]` → what the data plane knows from its start to its end
table      what it is told about the deployments and the keys
metrics    what it is told to say of the engines
"""
