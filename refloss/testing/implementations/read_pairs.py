"""Cross entropies and losses of pairs in PyTorch that were read at the commit named here. The tests do not run them."""

from __future__ import annotations

from functools import partial

from refloss.losses import CrossEntropy, InfoNCE, Triplet
from refloss.testing.implementations.row import Implementation

megatron = partial(
    Implementation,
    library="Megatron-LM",
    repository="NVIDIA/Megatron-LM",
    path="megatron/core/tensor_parallel/cross_entropy.py",
    revision="00611e6eeb0b09b5ee074750956855215ddbd67f",
    framework="torch",
    defaults="label_smoothing=0.0",
)

ROWS = (
    Implementation(
        library="FlashAttention",
        code="cross_entropy_loss(z, y)[0]",
        repository="Dao-AILab/flash-attention",
        path="flash_attn/ops/triton/cross_entropy.py",
        revision="058ad35a3914afd7408dd33c7d5f558a48f4bb05",
        framework="torch",
        loss=CrossEntropy(reduction="none"),
        defaults="label_smoothing=0.0, logit_scale=1.0, lse_square_scale=0.0, ignore_index=-100",
        remarks="lse_square_scale is z_loss. Computed in float32.",
    ),
    Implementation(
        library="Unsloth",
        code="fast_cross_entropy_loss(z[None], y[None])",
        repository="unslothai/unsloth",
        path="unsloth/kernels/cross_entropy_loss.py",
        revision="0050c73e05ca9bb74e42d0649be410f177160c08",
        framework="torch",
        loss=CrossEntropy(),
        defaults="logit_softcapping=0, logit_scaling=0, n_items=None",
        remarks=(
            "Writes its gradient over the logits. logit_softcapping is softcap, and logit_scaling logit_scale. "
            "Computed in float32."
        ),
    ),
    megatron(
        code="vocab_parallel_cross_entropy(z, y)",
        loss=CrossEntropy(reduction="none"),
        remarks="Computed in float32, where float32 logits are overwritten. There are no ignored labels.",
    ),
    megatron(
        code="vocab_parallel_cross_entropy(z, y, label_smoothing=0.1)",
        loss=CrossEntropy(reduction="none", label_smoothing=0.1),
        differs="Smoothing gives eps/(C - 1) to each of the other classes, not eps/C to all.",
        defects=("smoothing eps/(C - 1)",),
        remarks="On one device. With several, C and the mean of log p are those of the part of a device.",
    ),
    Implementation(
        library="fairseq",
        code="label_smoothed_nll_loss(log_softmax(z), y, 0.1)[0]",
        repository="facebookresearch/fairseq",
        path="fairseq/criterions/label_smoothed_cross_entropy.py",
        revision="00bc279894ab6ed3641b0f791acc578ac2083584",
        framework="torch",
        loss=CrossEntropy(reduction="sum", label_smoothing=0.1),
        defaults="ignore_index=None, reduce=True",
        remarks="The trainer divides by the number of tokens.",
    ),
    Implementation(
        library="Sentence Transformers",
        code="MultipleNegativesRankingLoss(model)",
        repository="UKPLab/sentence-transformers",
        path="sentence_transformers/losses/MultipleNegativesRankingLoss.py",
        revision="005f3f4f89b37635a47ac0c05a5d1f090390ffef",
        framework="torch",
        loss=InfoNCE(ways=1),
        defaults="scale=20.0, similarity_fct=cos_sim",
        remarks="With pairs alone; negatives given beside them are further classes. The scale is no parameter.",
    ),
    Implementation(
        library="Sentence Transformers",
        code="TripletLoss(model)",
        repository="UKPLab/sentence-transformers",
        path="sentence_transformers/losses/TripletLoss.py",
        revision="065269b6f3b81dc840fa1133c85b2cdcd516eb0b",
        framework="torch",
        loss=Triplet(m=5, squared=False),
        differs="1e-6 is added to every coordinate of both differences, by torch's pairwise_distance.",
        defects=("1e-06 added to differences",),
        defaults="distance_metric=EUCLIDEAN, triplet_margin=5",
    ),
    Implementation(
        library="OnlineMiningTripletLoss",
        code="batch_all_triplet_loss(y, x, 0.2)[0]",
        repository="NegatioN/OnlineMiningTripletLoss",
        path="online_triplet_loss/losses.py",
        revision="d9895637070eef3f8c9219d5483630b484ae7bee",
        framework="torch",
        loss=Triplet(squared=False),
        differs="The sum is divided by the number of triplets whose loss is above 0.",
        defects=("mean over open triplets",),
        defaults="squared=False",
        remarks="Over all triplets of a batch. Distances are those of the Gram matrix, without gradient at 0.",
    ),
)
