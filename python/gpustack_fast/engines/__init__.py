"""Wanted → running: the engines, their processes, and their environments.

assembly      all of this, put together for `app`
plan          wanted and actual → the next steps, of an edit, too: pure
supervisor    carries them out
wanted        which models of ours should run, and which replicas are as configured
retirement    the way out of an engine: retired, idle, ended; or left to who goes on with it
maintenance   what is done now and then: logs, zombies
orders        the operator's: which instances are drained
progress      how far models are on their way to what is configured
rollout       what a change of a model will do to its engines, in words
replica       a slot and the engine in it
replicas      all of them, and who is told of their changes
life          one engine's life, from its preparation to its end
history       what lasts of them over restarts: events, generations, drained ones
adoption      goes on with engines that an earlier run has left
digest        what an engine was made of: whether it would be started otherwise now
records       who an engine is, for the next server
preparer      what an engine is started with: a place, an environment, its files (`prepared`)
allocation    who holds which GPUs (`gpu_use`: what the driver shows of that; `gpu_locks`)
duties        which models are awake, and with how many replicas: pure
turns         who sleeps so that another has room: pure
autoscale     how many replicas follow from the requests: pure
model_files   what a model's files say, and where they are
shared_work   work that several wait for
instance      one engine process (instance_files: its files; leader: its process, ours or adopted)
listening     who listens at an address
ask           asks it one thing
engine_log    its log: stages, causes, rotation
readiness     whether it has become ready, and serves its first request
liveness      whether it still works: dead, hung, busy
leftovers     the engines of an earlier run that nobody adopts
external      engines that somebody else runs: whether they can be reached (`addresses`)
health        what their health paths say
context       how long their models' contexts are, and those of ours
processes     processes and their sessions, as the kernel knows them
environments  isolated, pinned installations of engines, by version and variant
"""
