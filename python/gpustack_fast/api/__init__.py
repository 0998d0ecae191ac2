"""The management API: what the data plane does not answer itself reaches it through a Unix socket.

    documents    what goes out, in GPUStack's shapes
    views        what is shown of the deployments and the routes
    routes       the table of routes, one row each, and what answers them
    application  the ASGI application: finds the row, checks the key, turns errors into answers
    server       granian, embedded: the only file that names it

It knows nothing of the supervisor or the data plane: `app` hands in a `Sources`. (`views` knows the
replicas.)
"""
