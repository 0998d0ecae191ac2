"""The API keys.

store   on the disk, hashed
reach   keys and routes that do not meet
live    of a running server: the store and the data plane change together
"""
