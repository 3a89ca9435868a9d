"""Loops over time that make pictures.

Whoever imports a pipeline imports diffusers and transformers, which then speak of what is as it
should be: here, before they are imported, exactly that is silenced.
"""

from t2i.library_messages import filter_noise

filter_noise()
