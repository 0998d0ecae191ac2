"""The management API: the data plane passes requests that are not its own on to it.

They come through a Unix socket.

    documents    the documents that go out, in GPUStack's shapes
    views        deployments and routes as such documents
    routes       the table of endpoints, and the functions behind them
    application  the ASGI application: finds the endpoint, checks the key, makes the response
    server       granian, embedded: the only file that names it

It knows nothing of the supervisor or the data plane: `app` hands in a `Sources`. (`views` knows the
replicas.)
"""
