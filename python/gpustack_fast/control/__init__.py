"""The control socket of a running server: how a command of the same user changes it.

`DIR/run/control.sock` is a Unix stream socket, 0600 in a 0700 folder, and the server asks the
kernel besides who is at the other end (SO_PEERCRED): only its own user and root are served. Each
way goes one JSON document per line:

    {"operation":"keys.revoke","which":"laptop"}
    {"result":{"name":"laptop","access_key":"0123456789abcdef",…}}          or
    {"error":{"kind":"KeyNotFound","message":"There is no key …"}}

    documents   the requests and responses
    server      asyncio; hands each request to a handler
    views       the models and their instances as `status` tells of them
    client      blocking and small, for the command line
"""
