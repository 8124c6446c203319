"""The triplet loss in PyTorch, differentiated by autograd.

Anchors, positives and negatives (N, D).
"""


def triplet(anchor, positive, negative, m=0.2):
    """Return the mean loss."""
    near = (anchor - positive).square().sum(dim=1)
    far = (anchor - negative).square().sum(dim=1)
    return (near - far + m).relu().mean()
