"""Which instance goes on which GPUs: pure.

documents   Wanted, Device, Claim, Placement, Refusal
"""
