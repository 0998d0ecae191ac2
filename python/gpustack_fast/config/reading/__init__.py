"""The way from a TOML file into the schema.

file        a TOML file → Config; every error names the file, the line and the fix
mistakes    what does not fit the schema → where it is, and whole sentences
toml_lines  where each key of a TOML text stands
"""
