"""The triplet loss in NumPy, with its gradients.

Anchors, positives and negatives (N, D).
"""

import numpy as np


def triplet(anchor, positive, negative, m=0.2):
    """Return the mean loss, the gradients of anchors, positives and negatives."""
    near, far = anchor - positive, anchor - negative
    rows = (near * near).sum(axis=1) - (far * far).sum(axis=1) + m
    loss = np.mean(np.maximum(rows, 0.0))

    g = 2.0 / len(rows) * (rows > 0)[:, None].astype(near.dtype)
    return loss, g * (negative - positive), -g * near, g * far
