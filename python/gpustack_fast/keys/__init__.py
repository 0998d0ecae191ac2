"""The API keys.

store   on the disk, hashed
live    of a running server: the store and the data plane change together
"""
