"""The layout of the released CALM weights: read into a run, written from one.

Two folders, each with a ``config.json`` and weights: the autoencoder, and the language model with a copy of the
autoencoder (``ae_model.``) and the energy head under two names. ``names`` says which tensor is which,
``settings`` which key of a configuration, ``sources`` opens a folder, ``pair`` checks both, ``bring`` makes a run
of them, ``export`` writes them back.
"""

from __future__ import annotations
