"""The way from a TOML file into the schema.

file        a TOML file → Config; every error names the file, the line and the fix
draft       a TOML document → as much of Config as fits, and everything that does not
mistakes    a mismatch with the schema → its place, and whole sentences
toml_lines  the line of each key in a TOML text
"""
