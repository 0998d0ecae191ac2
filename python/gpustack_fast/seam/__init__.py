"""What crosses to the data plane in Rust.

dataplane  the documents, and a typed handle on the data plane: the only file that imports `_native`
settings   `[server]` → what the data plane knows from its start to its end
table      what is told about the deployments and the keys
"""
