"""Wanted → running: the engines, their processes, and what they are installed from.

supervisor    carries out what is wanted, replica by replica
instance      one engine process
leftovers     the engines of an earlier, killed server
external      whether somebody else's engine answers
processes     what the kernel knows of a process and its session
environments  what an engine is installed from
"""
