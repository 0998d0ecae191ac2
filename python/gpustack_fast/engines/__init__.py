"""Wanted → running: the engines, their processes, and their environments.

plan          wanted and actual → the next steps: pure
supervisor    carries them out
replica       a slot and the engine in it
instance      one engine process
leftovers     the engines of an earlier, killed server
external      engines that somebody else runs: whether they can be reached
health        what their health paths say
processes     processes and their sessions, as the kernel knows them
environments  isolated, pinned installations of engines, by version and variant
"""
