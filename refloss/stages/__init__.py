"""The pieces: one file per stage, its forward above its backward, in the order of the picture."""
