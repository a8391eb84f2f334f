"""The DualForce library: everything that touches pixels, samples and tensors. It knows nothing of Prefect."""

__version__ = "0.1.0"
