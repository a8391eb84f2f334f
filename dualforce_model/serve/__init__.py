"""Serving: a page and a socket on this machine, one model shared fairly by several talkers. It knows no workflow.

One thread owns the model and draws one latent frame at a time, the sessions in turn. Everything else happens in the
event loop: a session stands between a bounded queue of sound and a bounded queue of frames.
"""

from dualforce_model.serve.config import ServeConfig

__all__ = ["ServeConfig"]
