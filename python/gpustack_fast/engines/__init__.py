"""Wanted → running: the engines, their processes, and their environments.

assembly      all of this, put together for `app`
plan          wanted and actual → the next steps, of an edit, too: pure
supervisor    carries them out
replica       a slot and the engine in it
life          one engine's life, from its preparation to its end
history       what lasts of them over restarts: events, generations, orders
preparer      what an engine is started with: a place, an environment, its files (`prepared`)
allocation    who holds which GPUs
model_files   what a model's files say, and where they are
shared_work   work that several wait for
instance      one engine process
ask           asks it one thing
engine_log    its log: stages, causes, rotation
liveness      whether it still works: dead, hung, busy
leftovers     the engines of an earlier, killed server
external      engines that somebody else runs: whether they can be reached (`addresses`)
health        what their health paths say
processes     processes and their sessions, as the kernel knows them
environments  isolated, pinned installations of engines, by version and variant
"""
