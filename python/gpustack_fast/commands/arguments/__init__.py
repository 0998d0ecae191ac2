"""What can be typed: each file declares its commands, and runs them.

What a command does is imported when it runs: `keys` and `check` need no event loop, and the data
plane only for a certificate to be checked, and are quick.

server     serve, check, plan and version
keys       keys create, list and revoke
models     models list, pull and remove
handover   restart and upgrade
instances  status, drain, resume, logs and gpus
engines    engines install, list and remove
shared     what they have in common: the parser, settings as flags, where the data directory is
"""
