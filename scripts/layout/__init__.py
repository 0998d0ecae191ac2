"""The layout of the source as data: files, folders, and which file imports which. For
scripts/check-arrows and scripts/house-figures; the standard library is all it needs."""
