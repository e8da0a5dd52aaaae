"""Workbench for Continuous Autoregressive Language Models (CALM, arXiv 2510.27688).

This file imports nothing, so that ``calm --help`` answers at once; import the module you need
(``workbench.config``, ``workbench.runner``, ...).
"""

__version__ = "0.1.0"
