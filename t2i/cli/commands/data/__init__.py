"""`t2i data`: data sets of training pictures, and preference pairs."""
