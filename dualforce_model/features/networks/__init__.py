"""The published networks behind the backends with weights. They know tensors, not clips; only backends import them.

Every network keeps the key names of its official checkpoint, so loading is strict and needs no table of names.
"""
