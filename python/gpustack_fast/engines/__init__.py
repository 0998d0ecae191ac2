"""Wanted → running: the engines, their processes, and what they are installed from.

plan          wanted and actual → the next steps: pure
supervisor    carries them out
replica       a slot and the engine in it
instance      one engine process
leftovers     the engines of an earlier, killed server
external      engines that somebody else runs: whether they can be reached
processes     what the kernel knows of a process and its session
environments  what an engine is installed from
"""
