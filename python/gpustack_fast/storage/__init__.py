"""Where everything lies, and how it survives a crash.

data_directory  the data directory, and the lock that says who may touch it
engine_paths    where in it the engines' records, sockets and logs lie
durable         small files that a crash leaves old or new, never half
route_numbers   the number of every route's name, for ever
"""
