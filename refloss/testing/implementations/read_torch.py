"""Heads in PyTorch that were read at the commit named here. The tests do not run them."""

from __future__ import annotations

from functools import partial

from refloss.losses import (
    AdaFace,
    ArcFace,
    ASoftmax,
    CircleLoss,
    CombinedMargin,
    CosFace,
    CurricularFace,
    InterTopK,
    MagFace,
    MVSoftmax,
    NormFace,
    SphereFace2,
    SphereFaceR,
    UniFace,
)
from refloss.testing.implementations.row import Implementation

UNPROJECTED = "Weights are set to unit length in place, and dL/dw keeps its part along w."
NOT_NORMALISED = "The weights are not normalised: the result of their normalisation is dropped."
CUT_OFF = f"{NOT_NORMALISED} What is no cosine then is cut off at 1 - 1e-7."
UNIT_X = "Embeddings come at unit length."
LOGITS = "Returns logits."
FLOAT32 = "The margin is rounded to float32."
ANNEALED = (
    "Returns logits. The annealing is max(5, 1000 / (1 + 0.12 i)) at step i, 5 from step 1659 on; the counter is not "
    "in the state of the module."
)

insightface = partial(
    Implementation,
    library="InsightFace",
    repository="deepinsight/insightface",
    path="recognition/arcface_torch/losses.py",
    revision="7fadd420c2351d0ffa8cac403421c1a3ed733365",
    framework="torch",
)
opensphere = partial(
    Implementation,
    library="OpenSphere",
    repository="ydwen/opensphere",
    revision="a679e82032455941932e23e3d3cbab6b8c07e3d4",
    framework="torch",
    differs=UNPROJECTED,
    defects=("gradient without projection of w",),
)
spherefacer = partial(
    opensphere,
    path="model/head/spherefacer.py",
    revision="032c31b8918fb7639d3b34ac7433bfd537c6c518",
    defaults="magn_type='v0', s=30.0, m=1.5, lw=50.0",
    units="radians",
)
arcface_pytorch = partial(
    Implementation,
    library="arcface-pytorch",
    repository="ronghuaiyang/arcface-pytorch",
    path="models/metrics.py",
    revision="47ace80b128042cd8d2efd408f55c5a3e156b032",
    framework="torch",
)
face_evolve = partial(
    Implementation,
    library="face.evoLVe",
    repository="ZhaoJ9014/face.evoLVe",
    path="head/metrics.py",
    revision="a9897bda52bdbb8d7c2fe28f1e21827dfd69d14e",
    framework="torch",
)
cosface_pytorch = partial(
    Implementation,
    library="CosFace_pytorch",
    repository="MuggleWang/CosFace_pytorch",
    path="layer.py",
    revision="81de0a95b99661b12441e7c6f846082ac08ce054",
    framework="torch",
)
angular_penalty = partial(
    Implementation,
    library="Angular-Penalty-Softmax-Losses-Pytorch",
    repository="cvqluu/Angular-Penalty-Softmax-Losses-Pytorch",
    path="loss_functions.py",
    revision="c41d599622b6a6ba7e5be6faf3a01da1202024ea",
    framework="torch",
    differs=NOT_NORMALISED,
    defects=("weights not unit",),
    remarks="exp without taking the maximum off. A margin or scale of 0 is taken for the default.",
)
fast_reid = partial(
    Implementation,
    library="FastReID",
    repository="JDAI-CV/fast-reid",
    path="fastreid/layers/any_softmax.py",
    revision="c9bc3ceb2f7a6438b62fb515ea3df6d1e999e95d",
    framework="torch",
    defaults="MARGIN = 0, SCALE = 1 in fastreid/config/defaults.py",
)
pytorch_adacos = partial(
    Implementation,
    library="pytorch-adacos",
    repository="4uiiurz1/pytorch-adacos",
    path="metrics.py",
    revision="35c086cc07087657595e1d10eaddefb3b3a46f35",
    framework="torch",
)
curricularface = partial(
    Implementation,
    library="CurricularFace",
    repository="HuangYG123/CurricularFace",
    path="head/metrics.py",
    revision="68c8727fb7cd2243ecbfd7e09c35efc87c6e2de4",
    framework="torch",
    units="radians",
)
adaface = partial(
    Implementation,
    library="AdaFace",
    repository="mk-minchul/AdaFace",
    path="head.py",
    revision="c60eaa786a42c03444f3df7096dbaf9d57ae010d",
    framework="torch",
)
cvlface = partial(
    Implementation,
    library="CVLface",
    repository="mk-minchul/CVLface",
    path="cvlface/research/recognition/code/run_v1/losses/margin_loss.py",
    revision="d3d09c93e53c5d5db9ec5c5fa96e5d77fe7a78d8",
    framework="torch",
)
elasticface = partial(
    Implementation,
    library="ElasticFace",
    repository="fdbtrs/ElasticFace",
    path="utils/losses.py",
    revision="5496ec0643bfdcd5e6b53b885aa4e919e26ce442",
    framework="torch",
)
face_pytorch = partial(
    Implementation,
    library="Face_Pytorch",
    repository="wujiyang/Face_Pytorch",
    revision="3afd941c01cae3eb73b66a48fa984f41bd6662fc",
    framework="torch",
    remarks=LOGITS,
)
sv_softmax = partial(
    Implementation,
    library="SV-X-Softmax",
    repository="xiaoboCASIA/SV-X-Softmax",
    path="fc_layers.py",
    revision="89b536d4001442453f39021ce4b91a5fb43b3354",
    framework="torch",
    defaults="fc_type='MV-AM', margin=0.35, t=0.2, scale=32, easy_margin=True",
    remarks=f"{LOGITS} {UNIT_X}",
)
facex_zoo = partial(
    Implementation,
    library="FaceX-Zoo",
    repository="JDAI-CV/FaceX-Zoo",
    revision="16b793a7564a4b9308cf94e62bdb2ffacb3a725a",
    framework="torch",
    remarks=LOGITS,
)
voxceleb = partial(
    Implementation,
    library="voxceleb_trainer",
    repository="clovaai/voxceleb_trainer",
    revision="f51bab870672a9b0b50fa158b4e30f329e7866d7",
    framework="torch",
)
asv_subtools = partial(
    Implementation,
    library="ASV-Subtools",
    repository="Snowdar/asv-subtools",
    path="pytorch/libs/nnet/loss.py",
    revision="09102b188c2e8f348198ab8da3605e7234afb665",
    framework="torch",
    defaults="m=0.2, s=30.0, t=1.0, method='am', feature_normalize=True",
    remarks="feature_normalize=False has the length of the embedding for a scale. In evaluation there is no margin.",
)
wespeaker = partial(
    Implementation,
    library="WeSpeaker",
    repository="wenet-e2e/wespeaker",
    path="wespeaker/models/projections.py",
    revision="dfa741957e5c11f477623b6e583d67d0af25ee88",
    framework="torch",
)
tface = partial(
    Implementation,
    library="TFace",
    repository="Tencent/TFace",
    revision="171ec1434aca0972e111663ac646c9c1e3e44b5b",
    framework="torch",
    remarks=LOGITS,
)
speaker_3d = partial(
    Implementation,
    library="3D-Speaker",
    repository="modelscope/3D-Speaker",
    path="speakerlab/loss/margin_loss.py",
    revision="09e7806729ed412d3f216316a552a30c8e9e37fa",
    framework="torch",
    remarks="Takes cosines.",
)
am_softmax = partial(
    Implementation,
    library="face_recognition.pytorch",
    repository="grib0ed0v/face_recognition.pytorch",
    path="losses/am_softmax.py",
    revision="05cb9b30e8220445fcb27988926d88f330091c12",
    framework="torch",
    defaults="margin_type='cos', gamma=0.0, m=0.5, s=30, t=1.0",
    remarks="Takes cosines.",
)

ROWS = (
    insightface(
        code="ArcFace(s=64.0, margin=0.5)",
        loss=ArcFace(gradient="detached"),
        defaults="s=64.0, margin=0.5",
        units="radians",
        remarks=(
            "Takes cosines in [-1, 1] and returns logits; partial_fc_v2.py has the cross entropy. Rows with the label "
            "-1, whose class is on another device, get no margin."
        ),
    ),
    insightface(
        code="CombinedMarginLoss(64, 1.0, 0.5, 0.0)",
        loss=ArcFace(gradient="detached"),
        units="radians",
        remarks="Takes cosines in [-1, 1] and returns logits.",
    ),
    insightface(
        code="CombinedMarginLoss(64, 1.0, 0.3, 0.2)",
        loss=CosFace(m=0.2),
        units="radians",
        remarks="With m3 above 0, m1 and m2 are dropped: this is not CombinedMargin(m1=1, m2=0.3, m3=0.2).",
    ),
    insightface(
        code="CosFace(s=64.0, m=0.4)",
        loss=CosFace(m=0.4),
        defaults="s=64.0, m=0.4",
        remarks="Takes cosines and returns logits.",
    ),
    opensphere(
        code="ArcFace(D, C)",
        path="opensphere/module/head/arcface.py",
        loss=ArcFace(boundary="clamp", gradient="detached"),
        defaults="s=64.0, m=0.5",
        units="radians",
        remarks="Angles are held from 1e-5 to 3.14159, those of other classes too.",
    ),
    opensphere(
        code="CosFace(D, C)", path="opensphere/module/head/cosface.py", loss=CosFace(), defaults="s=64.0, m=0.35"
    ),
    opensphere(
        code="SphereFace(D, C)",
        path="opensphere/module/head/sphereface.py",
        loss=ASoftmax(m=1.7, s=30, gradient="detached"),
        defaults="s=30.0, m=1.7",
        units="radians",
        remarks="The scale is fixed, and the margin no whole number.",
    ),
    opensphere(
        code="SphereFace2(D, C)",
        path="opensphere/module/head/sphereface2.py",
        loss=SphereFace2(gradient="detached"),
        defaults="alpha=0.7, r=40.0, m=0.4, t=3.0, lw=50.0",
    ),
    opensphere(
        code="CocoLoss(D, C)", path="opensphere/module/head/cocoloss.py", loss=NormFace(s=30), defaults="s=30.0"
    ),
    spherefacer(
        code="SphereFaceR_H(D, C, magn_type='v0')",
        loss=ASoftmax(m=1.5, s=30, gradient="detached"),
        differs=f"The loss is multiplied by lw / s. {UNPROJECTED}",
        defects=(),
    ),
    spherefacer(
        code="SphereFaceR_H(D, C, magn_type='v1')",
        loss=SphereFaceR(gradient="detached"),
        differs=f"The loss is multiplied by lw / s. {UNPROJECTED}",
        defects=(),
    ),
    spherefacer(
        code="SphereFaceR_H(D, C, magn_type='v2')",
        loss=SphereFaceR(version=2, gradient="detached"),
        differs=f"The loss is multiplied by lw / s. {UNPROJECTED}",
        defects=(),
    ),
    arcface_pytorch(
        code="ArcMarginProduct(D, C)",
        loss=ArcFace(s=30, boundary="hard"),
        defaults="s=30.0, m=0.5, easy_margin=False",
        units="radians",
        remarks=f"{LOGITS} Needs a GPU as it stands. easy_margin is boundary='easy'.",
    ),
    arcface_pytorch(
        code="AddMarginProduct(D, C)",
        loss=CosFace(s=30, m=0.4),
        defaults="s=30.0, m=0.4",
        remarks=f"{LOGITS} Needs a GPU as it stands.",
    ),
    arcface_pytorch(
        code="SphereProduct(D, C)", loss=ASoftmax(annealing=5.0), defaults="m=4", units="radians", remarks=ANNEALED
    ),
    face_evolve(
        code="ArcFace(D, C, None)",
        loss=ArcFace(boundary="hard"),
        defaults="s=64.0, m=0.5, easy_margin=False",
        units="radians",
        remarks=LOGITS,
    ),
    face_evolve(code="CosFace(D, C, None)", loss=CosFace(), defaults="s=64.0, m=0.35", remarks=LOGITS),
    face_evolve(
        code="SphereFace(D, C, None)", loss=ASoftmax(annealing=5.0), defaults="m=4", units="radians", remarks=ANNEALED
    ),
    face_evolve(
        code="Am_softmax(D, C, None)",
        loss=CosFace(s=30),
        differs="Embeddings are not normalised; their products with the weights are cut off at -1 and 1.",
        defaults="m=0.35, s=30.0",
        remarks=LOGITS,
    ),
    cosface_pytorch(
        code="MarginCosineProduct(D, C)", loss=CosFace(s=30, m=0.4), defaults="s=30.0, m=0.4", remarks=LOGITS
    ),
    cosface_pytorch(
        code="AngleLinear(D, C)", loss=ASoftmax(annealing=5.0), defaults="m=4", units="radians", remarks=ANNEALED
    ),
    angular_penalty(
        code="AngularPenaltySMLoss(D, C, loss_type='arcface')",
        differs=CUT_OFF,
        defects=(),
        loss=ArcFace(),
        defaults="s=64.0, m=0.5, eps=1e-7",
        units="radians",
    ),
    angular_penalty(
        code="AngularPenaltySMLoss(D, C, loss_type='cosface')",
        loss=CosFace(s=30, m=0.4),
        defaults="s=30.0, m=0.4, eps=1e-7",
    ),
    angular_penalty(
        code="AngularPenaltySMLoss(D, C, loss_type='sphereface')",
        differs=CUT_OFF,
        defects=(),
        loss=ASoftmax(m=1.35, s=64, boundary="none"),
        defaults="s=64.0, m=1.35, eps=1e-7",
        units="radians",
    ),
    Implementation(
        library="NeMo",
        code="AngularSoftmaxLoss(s=20.0, m=1.35)",
        repository="NVIDIA/NeMo",
        path="nemo/collections/asr/losses/angularloss.py",
        revision="09a0d859543af014fc2a39328add03b540c3844a",
        framework="torch",
        loss=ArcFace(s=20, m=1.35),
        differs=CUT_OFF,
        defaults="s=20.0, m=1.35",
        units="radians",
        remarks="With SpeakerDecoder(angular=True) of modules/conv_asr.py. exp without taking the maximum off.",
    ),
    fast_reid(
        code="ArcSoftmax(C, scale=64, margin=0.5)",
        loss=ArcFace(),
        units="radians",
        remarks="Takes cosines, which it overwrites, and returns logits.",
    ),
    fast_reid(
        code="CosSoftmax(C, scale=64, margin=0.35)",
        loss=CosFace(),
        remarks="Takes cosines, which it overwrites, and returns logits.",
    ),
    fast_reid(
        code="CircleSoftmax(C, scale=256, margin=0.25)",
        loss=CircleLoss(gradient="detached"),
        remarks="Takes cosines and returns logits.",
    ),
    Implementation(
        library="MMPretrain",
        code="ArcFaceClsHead(C, D)",
        repository="open-mmlab/mmpretrain",
        path="mmpretrain/models/heads/margin_head.py",
        revision="ee7f2e88501f61aa95c742dd5f429f039935ee90",
        framework="torch",
        loss=ArcFace(boundary="hard"),
        defaults="num_subcenters=1, scale=64.0, margins=0.5, easy_margin=False",
        units="radians",
        remarks=(
            "More sub-centers are SubCenterArcFace(boundary='hard'). Margins may differ by class; they are rounded to "
            "float32."
        ),
    ),
    pytorch_adacos(code="ArcFace(D, C)", loss=ArcFace(s=30), defaults="s=30.0, m=0.5", units="radians", remarks=LOGITS),
    pytorch_adacos(code="CosFace(D, C)", loss=CosFace(s=30), defaults="s=30.0, m=0.35", remarks=LOGITS),
    pytorch_adacos(
        code="SphereFace(D, C)",
        loss=ASoftmax(m=1.35, s=30, boundary="none"),
        defaults="s=30.0, m=1.35",
        units="radians",
        remarks=LOGITS,
    ),
    curricularface(
        code="CurricularFace(D, C)",
        loss=CurricularFace(),
        defaults="m=0.5, s=64.0",
        remarks=f"{LOGITS} t is the one of updated(x, w, y), with the momentum 0.01: it is set before it is used.",
    ),
    curricularface(
        code="ArcFace(D, C)",
        loss=ArcFace(boundary="hard"),
        defaults="s=64.0, m=0.5, easy_margin=False",
        remarks=f"{LOGITS} easy_margin=True fails, for a name is misspelt.",
    ),
    adaface(
        code="AdaFace(D, C)",
        loss=AdaFace(momentum=1.0),
        differs="All cosines are held within 1 - 1e-3, those of other classes too, and have no gradient beyond.",
        defaults="m=0.4, h=0.333, s=64.0, t_alpha=1.0",
        units="radians",
        remarks=(
            f"{LOGITS} {UNIT_X} Mean and deviation are those of updated(x): they are set before they are used, and "
            "are NaN for one sample."
        ),
    ),
    adaface(
        code="ArcFace(D, C)",
        loss=ArcFace(boundary="clamp"),
        differs="All cosines are held within 1 - 1e-4, and angles within 1e-4 and pi - 1e-4, without gradient.",
        defaults="s=64.0, m=0.5",
        units="radians",
        remarks=f"{LOGITS} {UNIT_X}",
    ),
    adaface(
        code="CosFace(D, C)",
        loss=CosFace(m=0.4),
        differs="All cosines are held within 1 - 1e-4, without gradient beyond.",
        defaults="s=64.0, m=0.4",
        remarks=f"{LOGITS} {UNIT_X} {FLOAT32}",
    ),
    cvlface(
        code="CombinedMarginLoss(64, 1.0, 0.5, 0.0)",
        loss=ArcFace(gradient="detached"),
        units="radians",
        remarks="Takes cosines and returns logits. The class ArcFace beside it fails: it sets scale and reads s.",
    ),
    cvlface(
        code="CosFace(s=64.0, m=0.4)",
        loss=CosFace(m=0.4),
        defaults="s=64.0, m=0.4",
        remarks="Takes cosines and returns logits.",
    ),
    cvlface(
        code="AdaFaceLoss(64, 0.4, 0.333, t_alpha)",
        path="cvlface/research/recognition/code/run_v1/losses/adaface.py",
        loss=AdaFace(gradient="detached"),
        differs="The angle is not held within 1e-3 and pi - 1e-3.",
        defects=("angle not clipped",),
        units="radians",
        remarks="Takes cosines and lengths, mean and deviation, and returns logits with the next two.",
    ),
    Implementation(
        library="MagFace",
        code="MagLinear(D, C); MagLoss(10, 110, 0.45, 0.8)",
        repository="IrvingMeng/MagFace",
        path="models/magface.py",
        revision="99bae614ac2643b9694bf18e0c5645272ff6acfa",
        framework="torch",
        loss=MagFace(),
        defaults="scale=64.0, easy_margin=True",
        units="radians",
        remarks="The regularizer comes apart, and the training script multiplies it.",
    ),
    elasticface(code="ArcFace(D, C)", loss=ArcFace(), defaults="s=64.0, m=0.5", units="radians", remarks=LOGITS),
    elasticface(
        code="CosFace(D, C)",
        loss=CosFace(),
        defaults="s=64.0, m=0.35",
        remarks=f"{LOGITS} {FLOAT32}",
    ),
    elasticface(
        code="ElasticArcFace(D, C)",
        loss=ArcFace(),
        defaults="s=64.0, m=0.5, std=0.0125, plus=False",
        units="radians",
        remarks=f"{LOGITS} With its draws given as the margins of samples, m=.",
    ),
    elasticface(
        code="ElasticCosFace(D, C)",
        loss=CosFace(),
        defaults="s=64.0, m=0.35, std=0.0125, plus=False",
        remarks=f"{LOGITS} With its draws given as the margins of samples, m=.",
    ),
    face_pytorch(
        code="ArcMarginProduct(D, C)",
        path="margin/ArcMarginProduct.py",
        loss=ArcFace(s=32, boundary="hard"),
        defaults="s=32.0, m=0.5, easy_margin=False",
        units="radians",
    ),
    face_pytorch(
        code="CosineMarginProduct(D, C)",
        path="margin/CosineMarginProduct.py",
        loss=CosFace(s=30),
        defaults="s=30.0, m=0.35",
    ),
    face_pytorch(
        code="MultiMarginProduct(D, C)",
        path="margin/MultiMarginProduct.py",
        loss=CombinedMargin(s=32, m1=1, m2=0.2, m3=0.35, boundary="hard"),
        defaults="s=32.0, m1=0.2, m2=0.35, easy_margin=False",
        units="radians",
        remarks=f"{LOGITS} Its m1 is the margin on the angle, its m2 the one on the cosine.",
    ),
    sv_softmax(code="FC('MV-AM')", loss=MVSoftmax()),
    sv_softmax(code="FC('MV-Arc')", loss=MVSoftmax(margin="arc"), units="radians"),
    sv_softmax(code="FC('Arc')", loss=ArcFace(s=32, m=0.35, boundary="easy"), units="radians"),
    sv_softmax(code="FC('AM', easy_margin=False)", loss=CosFace(s=32)),
    facex_zoo(
        code="ArcFace(D, C)",
        path="head/ArcFace.py",
        loss=ArcFace(s=32, m=0.35, boundary="keep"),
        defaults="margin_arc=0.35, margin_am=0.0, scale=32",
        units="radians",
        remarks=f"{LOGITS} margin_am is taken off where the margin stops; m sin m makes it boundary='hard'.",
    ),
    facex_zoo(code="AM_Softmax(D, C)", path="head/AM_Softmax.py", loss=CosFace(s=32), defaults="margin=0.35, scale=32"),
    facex_zoo(
        code="CircleLoss(D, C)",
        path="head/CircleLoss.py",
        loss=CircleLoss(gradient="detached"),
        defaults="margin=0.25, gamma=256",
    ),
    facex_zoo(
        code="CurricularFace(D, C)",
        path="head/CurricularFace.py",
        loss=CurricularFace(),
        defaults="m=0.5, s=64.0",
        units="radians",
        remarks=f"{LOGITS} t is the one of updated(x, w, y), with the momentum 0.01.",
    ),
    facex_zoo(
        code="MagFace(D, C)",
        path="head/MagFace.py",
        loss=MagFace(s=32, regularizer=20, boundary="keep"),
        defaults="margin_am=0.0, scale=32, l_a=10, u_a=110, l_margin=0.45, u_margin=0.8, lamda=20",
        units="radians",
        remarks="Returns logits, and the regularizer of each sample apart.",
    ),
    voxceleb(
        code="aamsoftmax.LossFunction(D, C)",
        path="loss/aamsoftmax.py",
        loss=ArcFace(s=15, m=0.3, boundary="hard"),
        defaults="margin=0.3, scale=15, easy_margin=False",
        units="radians",
    ),
    voxceleb(
        code="amsoftmax.LossFunction(D, C)",
        path="loss/amsoftmax.py",
        loss=CosFace(s=15, m=0.3),
        defaults="margin=0.3, scale=15",
        remarks=FLOAT32,
    ),
    Implementation(
        library="ECAPA-TDNN",
        code="AAMsoftmax(C, m=0.2, s=30)",
        repository="TaoRuijie/ECAPA-TDNN",
        path="loss.py",
        revision="4904fda6c5da208998321e3ea75e24320bab8aad",
        framework="torch",
        loss=ArcFace(s=30, m=0.2, boundary="hard"),
        units="radians",
        remarks="For embeddings of 192 numbers.",
    ),
    Implementation(
        library="ESPnet",
        code="AAMSoftmax(D, C)",
        repository="espnet/espnet",
        path="espnet2/spk/loss/aamsoftmax.py",
        revision="0bc12312609b51799a8855ea1054c3873f77c640",
        framework="torch",
        loss=ArcFace(s=15, m=0.3, boundary="hard"),
        defaults="margin=0.3, scale=15, easy_margin=False",
        units="radians",
    ),
    asv_subtools(code="MarginSoftmaxLoss(D, C)", loss=CosFace(s=30, m=0.2)),
    asv_subtools(code="MarginSoftmaxLoss(D, C, method='aam')", loss=ArcFace(s=30, m=0.2), units="radians"),
    wespeaker(
        code="ArcMarginProduct(D, C)",
        loss=ArcFace(s=32, m=0.2, boundary="continuous"),
        defaults="scale=32.0, margin=0.2, easy_margin=False",
        units="radians",
        remarks=LOGITS,
    ),
    wespeaker(
        code="AddMarginProduct(D, C)", loss=CosFace(s=32, m=0.2), defaults="scale=32.0, margin=0.2", remarks=LOGITS
    ),
    wespeaker(
        code="SphereProduct(D, C, margin=4)",
        loss=ASoftmax(annealing=5.0),
        defaults="margin=2",
        units="radians",
        remarks=ANNEALED,
    ),
    wespeaker(
        code="SphereFace2(D, C)",
        loss=SphereFace2(m=0.2, s=32, weight=32),
        defaults="scale=32.0, margin=0.2, lanbuda=0.7, t=3, margin_type='C'",
        remarks="log(1 + exp(z)) is infinite where exp(z) is.",
    ),
    wespeaker(
        code="ArcMarginProduct_intertopk_subcenter(D, C, K=1)",
        loss=InterTopK(),
        defaults="scale=32.0, margin=0.2, easy_margin=False, K=3, mp=0.06, k_top=5, do_lm=False",
        units="radians",
        remarks=f"{LOGITS} After update(0.2): before it, other classes have no penalty.",
    ),
    tface(
        code="ArcFace(D, C)",
        path="recognition/torchkit/head/localfc/arcface.py",
        loss=ArcFace(boundary="hard"),
        defaults="scale=64.0, margin=0.5, easy_margin=False",
        units="radians",
    ),
    tface(
        code="CosFace(D, C)",
        path="recognition/torchkit/head/localfc/cosface.py",
        loss=CosFace(m=0.4),
        defaults="scale=64.0, margin=0.4",
    ),
    tface(
        code="CurricularFace(D, C)",
        path="recognition/torchkit/head/localfc/curricularface.py",
        loss=CurricularFace(momentum=0.1),
        defaults="scale=64.0, margin=0.5, alpha=0.1",
        units="radians",
        remarks=f"{LOGITS} t is the one of updated(x, w, y).",
    ),
    speaker_3d(
        code="ArcMarginLoss()",
        loss=ArcFace(s=32, m=0.2, boundary="continuous"),
        defaults="scale=32.0, margin=0.2, easy_margin=False",
        units="radians",
    ),
    speaker_3d(code="AddMarginLoss()", loss=CosFace(s=32, m=0.2), defaults="scale=32.0, margin=0.2"),
    am_softmax(code="AMSoftmaxLoss()", loss=CosFace(s=30, m=0.5)),
    am_softmax(code="AMSoftmaxLoss('arc')", loss=ArcFace(s=30, m=0.5, boundary="hard"), units="radians"),
    Implementation(
        library="UniFace",
        code="Unified_Cross_Entropy_Loss(D, C)",
        repository="CVI-SZU/UniFace",
        path="head.py",
        revision="00ade47075e26f24a96a1db718046b9af5f068ea",
        framework="torch",
        loss=UniFace(),
        defaults="m=0.4, s=64, l=1.0, r=1.0",
        remarks="The bias begins at log(10 C r).",
    ),
)
