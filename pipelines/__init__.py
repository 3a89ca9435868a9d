"""Sampling loops and the pipelines around them.

Importing a pipeline imports diffusers and transformers, which then print notices about normal
conditions: these are silenced here, before the import.
"""

from t2i.library_messages import install_log_filters

install_log_filters()
