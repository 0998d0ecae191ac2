"""The data directory, and files that survive a crash.

data_directory  the data directory, and the lock that says who may touch it
engine_paths    the engines' records, sockets and logs in it
durable         small files that a crash leaves old or new, never half
route_numbers   the number of every route's name, for ever
model_states    the generations of models of ours, and which instances are drained
events          what has happened to engines, the newest
"""
