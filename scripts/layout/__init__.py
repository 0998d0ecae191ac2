"""The layout of the source as data: files, folders, and the imports between them.

For scripts/check-arrows and scripts/house-figures; the standard library is all it needs.
"""
