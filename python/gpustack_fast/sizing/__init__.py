"""What a model's files say of it, and the memory of a GPU that it takes.

documents   ModelFacts, Load, Estimate
"""
