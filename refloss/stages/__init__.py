"""The pieces: one file a stage, its forward above its backward, in the order of the picture."""
