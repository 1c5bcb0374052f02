"""Published weights under our names.

No weights of the authors can be had here, so a public state dict is built: the names are written out below as
the public code forms them, and the tensors are our own network's, kernels turned to (z, y, x). The proof is
in the answers: what the imported network says of a volume equals what the original says of it transposed.
"""

import pytest
import torch
from torch import Tensor, nn

from mambamed.errors import RecipeError
from mambamed.networks import NETWORKS, build_network
from mambamed.networks.public_names import has_public_names, settle_options, translate
from tests.networks.small_networks import small

MAMBA = ["A_log", "D", "in_proj.weight", "conv1d.weight", "conv1d.bias"]
MAMBA += ["x_proj.weight", "dt_proj.weight", "dt_proj.bias", "out_proj.weight"]
BATCH_NORM = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
BOTH, WEIGHT = ["weight", "bias"], ["weight"]


def pairs(public: str, ours: str, names: list[str]) -> dict[str, str]:
    return {f"{public}.{name}": f"{ours}.{name}" for name in names}


def double_conv(public: str, ours: str, norms: tuple[int, ...] = (1, 4)) -> dict[str, str]:
    names = pairs(f"{public}.conv.0", f"{ours}.0", BOTH) | pairs(f"{public}.conv.3", f"{ours}.3", BOTH)
    for n in norms:
        names |= pairs(f"{public}.conv.{n}", f"{ours}.{n}", BATCH_NORM)
    return names


def residual_layers(miccss: bool) -> dict[str, str]:
    """`layer1` to `layer3`: three BasicBlocks each, the first with a downsample."""
    names = {}
    for i in (1, 2, 3):
        for j in range(3):
            public, ours = f"layer{i}.{j}", f"stages.{i - 1}.{j}"
            for k in (1, 2):
                names |= pairs(f"{public}.conv{k}", f"{ours}.conv{k}", WEIGHT)
                names |= pairs(f"{public}.bn{k}", f"{ours}.norm{k}", BATCH_NORM)
            if j == 0:
                names |= pairs(f"{public}.downsample.0", f"{ours}.shortcut.0", WEIGHT)
                names |= pairs(f"{public}.downsample.1", f"{ours}.shortcut.1", BATCH_NORM)
            elif miccss:
                names |= mamba_in_convolution(f"{public}.mamba_layer", f"{ours}.mixer")
    return names


def mamba_in_convolution(public: str, ours: str) -> dict[str, str]:
    names = pairs(f"{public}.nin", f"{ours}.conv_in.0", WEIGHT)
    names |= pairs(f"{public}.norm", f"{ours}.conv_in.1", BATCH_NORM)
    names |= pairs(f"{public}.nin2", f"{ours}.conv_out.0", WEIGHT)
    names |= pairs(f"{public}.norm2", f"{ours}.conv_out.1", BATCH_NORM)
    return names | pairs(f"{public}.mamba", f"{ours}.mamba", MAMBA)


def light_decoder() -> dict[str, str]:
    names = double_conv("conv8", "decoder.head.convs")
    for k in (5, 6, 7):
        names |= double_conv(f"conv{k}", f"decoder.steps.{k - 5}.convs")
    return names


def nnmamba_names() -> dict[str, str]:
    names = double_conv("in_conv", "stem") | residual_layers(True) | light_decoder()
    for i in (1, 2, 3):
        names |= pairs(f"att{i}.layer1", f"skips.{i - 1}.weigh.0", BOTH)
        names |= pairs(f"att{i}.layer2", f"skips.{i - 1}.weigh.2", BOTH)
        names |= pairs(f"ds{i}_cls_conv", f"decoder.deep_heads.{i - 1}", BOTH)
    return names


def nnmamba_v1_names() -> dict[str, str]:
    names = double_conv("in_conv", "stem") | residual_layers(False) | light_decoder()
    for i in (1, 2, 3):
        names |= pairs(f"mamba_layer_{i}.norm", f"readers.{i}.norm", BOTH)
        names |= pairs(f"mamba_layer_{i}.mamba", f"readers.{i}.mamba", MAMBA)
    return names


def resunet_names() -> dict[str, str]:
    return double_conv("in_conv", "stem") | residual_layers(False) | light_decoder()


def classifier_names() -> dict[str, str]:
    names = double_conv("in_conv", "stem") | residual_layers(False)
    names |= mamba_in_convolution("mamba_layer_stem", "reader")
    names |= pairs("mamba_seq.mamba", "sequence", MAMBA)
    return names | pairs("mlp.0", "mlp.0", BOTH) | pairs("mlp.3", "mlp.3", BOTH)


def v1_classifier_names() -> dict[str, str]:
    names = double_conv("in_conv", "stem") | residual_layers(False)
    names |= pairs("mamba_layer_stem.norm", "reader.norm", BOTH)
    names |= pairs("mamba_layer_stem.mamba", "reader.mamba", MAMBA)
    return names | pairs("mlp.0", "mlp.0", BOTH) | pairs("mlp.2", "mlp.2", BOTH)


def three_ways() -> list[str]:
    names = list(MAMBA)
    for s in ("_b", "_s"):
        names += [f"A{s}_log", f"D{s}", f"conv1d{s}.weight", f"conv1d{s}.bias", f"x_proj{s}.weight"]
        names += [f"dt_proj{s}.weight", f"dt_proj{s}.bias"]
    return names


def monai_residual(public: str, ours: str, widens: bool) -> dict[str, str]:
    names = {f"{public}.conv{k}.conv.weight": f"{ours}.conv{k}.weight" for k in (1, 2)}
    return names | ({f"{public}.conv3.conv.weight": f"{ours}.shortcut.0.weight"} if widens else {})


def segmamba_names() -> dict[str, str]:
    names = pairs("vit.downsample_layers.0.0", "stages.0.0.0", BOTH)
    for i in range(4):
        if i:
            names |= pairs(f"vit.downsample_layers.{i}.1", f"stages.{i}.0.1", BOTH)
        for public, ours in (("proj", "spatial.0"), ("proj2", "spatial.3"), ("proj3", "gate.0")):
            names |= pairs(f"vit.gscs.{i}.{public}", f"stages.{i}.1.{ours}", BOTH)
        names |= pairs(f"vit.gscs.{i}.proj4", f"stages.{i}.1.fuse.0", BOTH)
        for j in range(2):
            names |= pairs(f"vit.stages.{i}.{j}.norm", f"stages.{i}.{j + 2}.norm", BOTH)
            names |= pairs(f"vit.stages.{i}.{j}.mamba", f"stages.{i}.{j + 2}.mamba", three_ways())
        names |= pairs(f"vit.mlps.{i}.fc1", f"outputs.{i}.1", BOTH)
        names |= pairs(f"vit.mlps.{i}.fc2", f"outputs.{i}.3", BOTH)
    for k in range(1, 6):
        names |= monai_residual(f"encoder{k}.layer", f"encoders.{k - 1}", widens=True)
    for k in range(5, 1, -1):
        names[f"decoder{k}.transp_conv.conv.weight"] = f"decoders.{5 - k}.up.weight"
        names |= monai_residual(f"decoder{k}.conv_block", f"decoders.{5 - k}.block", widens=True)
    names |= monai_residual("decoder1.layer", "last", widens=False)
    return names | pairs("out.conv.conv", "head", BOTH)


def conv_unit(public: str, ours: str) -> dict[str, str]:
    """With the copies that dynamic-network-architectures keeps; they come to nothing here."""
    return pairs(f"{public}.conv", f"{ours}.0", BOTH) | pairs(f"{public}.norm", f"{ours}.1", BOTH)


def block_d(public: str, ours: str, stride: bool = False, widens: bool = False) -> dict[str, str]:
    names = conv_unit(f"{public}.conv1", f"{ours}.first")
    names |= pairs(f"{public}.conv2.conv", f"{ours}.conv", BOTH)
    names |= pairs(f"{public}.conv2.norm", f"{ours}.norm", BOTH)
    if widens:
        at = int(stride)  # behind the pooling, where there is one
        names |= pairs(f"{public}.skip.{at}.conv", f"{ours}.shortcut.{at}", WEIGHT)
        names |= pairs(f"{public}.skip.{at}.norm", f"{ours}.shortcut.{at + 1}", BOTH)
    return names


def heads(steps: int) -> dict[str, str]:
    names = {}
    for i in range(steps):
        names |= pairs(f"decoder.seg_layers.{i}", f"heads.{i}", BOTH)
    return names


def transposed(steps: int) -> dict[str, str]:
    names = {}
    for i in range(steps):
        names |= pairs(f"decoder.transpconvs.{i}", f"steps.{i}.up", BOTH)
    return names


def nnunet_names() -> dict[str, str]:
    names = heads(2) | transposed(2)
    for i in range(3):
        for j in range(2):
            names |= conv_unit(f"encoder.stages.{i}.0.convs.{j}", f"stages.{i}.{j}")
    for i in range(2):
        for j in range(2):
            names |= conv_unit(f"decoder.stages.{i}.convs.{j}", f"steps.{i}.convolve.{j}")
    return names


def resenc_names() -> dict[str, str]:
    names = heads(2) | transposed(2) | conv_unit("encoder.stem.convs.0", "stages.0.0")
    for i, units in enumerate((1, 3, 4)):
        for j in range(units):
            ours = f"stages.{i}.{j}" if i else f"stages.0.1.{j}"
            first = i > 0 and j == 0
            names |= block_d(f"encoder.stages.{i}.blocks.{j}", ours, stride=first, widens=first)
    for i in range(2):
        names |= conv_unit(f"decoder.stages.{i}.convs.0", f"steps.{i}.convolve.0")
    return names


def mamba_trans(public: str, ours: str) -> dict[str, str]:
    names = pairs(f"{public}.mamba", f"{ours}.mamba", MAMBA)
    for norm in ("norm1", "norm2"):
        names |= pairs(f"{public}.{norm}", f"{ours}.{norm}", BOTH)
    return names | pairs(f"{public}.head", f"{ours}.linear", BOTH)


def both_ways(public: str, ours: str) -> dict[str, str]:
    names = mamba_trans(f"{public}.fwd_mamba", f"{ours}.forth")
    names |= mamba_trans(f"{public}.bwd_mamba", f"{ours}.back")
    return names | pairs(f"{public}.norm", f"{ours}.norm", BOTH)


def taming_names(directions: str) -> dict[str, str]:
    names = heads(2) | transposed(2) | conv_unit("encoder.stem.convs.0", "stages.0.0.0")
    for i in range(3):
        for j in range(2):
            ours = f"stages.{i}.0.{j}" if i else f"stages.0.0.1.{j}"
            first = i > 0 and j == 0
            names |= block_d(f"encoder.stages.{i}.blocks.{j}", ours, stride=first, widens=first)
        layer, mine = f"encoder.mamba_layers.{i}", f"stages.{i}.1"
        if directions == "multi":
            for k in range(4):
                names |= both_ways(f"{layer}.mambas.{k}", f"{mine}.blocks.{k}")
            continue
        names |= pairs(f"{layer}.norm", f"{mine}.norm", BOTH)
        form = mamba_trans if directions == "uni" else both_ways
        names |= form(f"{layer}.mamba", f"{mine}.blocks.0")
    for i in range(2):
        for j in range(2):
            names |= block_d(f"decoder.stages.{i}.blocks.{j}", f"steps.{i}.convolve.{j}", widens=j == 0)
    return names


def basic_res(public: str, ours: str) -> dict[str, str]:
    names = pairs(f"{public}.conv3", f"{ours}.shortcut", BOTH)
    for part in ("conv1", "norm1", "conv2", "norm2"):
        names |= pairs(f"{public}.{part}", f"{ours}.{part}", BOTH)
    return names


def umamba_names(variant: str) -> dict[str, str]:
    """Three stages: two blocks in the first two, one in the third; two in each step back."""
    names = heads(2) | basic_res("encoder.stem.0", "stages.0.0.0.0")
    names |= block_d("encoder.stem.1", "stages.0.0.0.1")
    for i in range(3):
        ours = f"stages.{i}.0" if i else "stages.0.0.1"
        names |= basic_res(f"encoder.stages.{i}.0", f"{ours}.0")
        if i < 2:
            names |= block_d(f"encoder.stages.{i}.1", f"{ours}.1")
        if variant == "enc":
            names |= pairs(f"encoder.mamba_layers.{i}.norm", f"stages.{i}.1.norm", BOTH)
            names |= pairs(f"encoder.mamba_layers.{i}.mamba", f"stages.{i}.1.mamba", MAMBA)
    if variant == "bot":
        names |= pairs("mamba_layer.norm", "stages.2.1.norm", BOTH)
        names |= pairs("mamba_layer.mamba", "stages.2.1.mamba", MAMBA)
    for i in range(2):
        names |= pairs(f"decoder.upsample_layers.{i}.conv", f"steps.{i}.up.conv", BOTH)
        names |= basic_res(f"decoder.stages.{i}.0", f"steps.{i}.convolve.0")
        names |= block_d(f"decoder.stages.{i}.1", f"steps.{i}.convolve.1")
    return names


PAPER = {"head": "paper"}
ENC = {"variant": "enc", "patch_size": [16, 16, 16], "channels": 32}  # 64 voxels, 128 channels at the bottom
# name, options -> public name: ours, as the public code forms them
PUBLIC = {
    "nnMamba": ("nnmamba", PAPER, nnmamba_names()),
    "nnMamba v1": ("nnmamba_v1", PAPER, nnmamba_v1_names()),
    "nnMamba classifier": ("nnmamba_classifier", {}, classifier_names()),
    "nnMamba v1 classifier": ("nnmamba_v1_classifier", {}, v1_classifier_names()),
    "ResUNet": ("resunet", PAPER, resunet_names()),
    "SegMamba": ("segmamba", {"depths": [2, 2, 2, 2]}, segmamba_names()),
    "nnU-Net": ("nnunet", {}, nnunet_names()),
    "ResEnc": ("nnunet_resenc", {}, resenc_names()),
    "TamingMambas uni": ("mamba_unet", {"directions": "uni"}, taming_names("uni")),
    "TamingMambas bi": ("mamba_unet", {"directions": "bi"}, taming_names("bi")),
    "TamingMambas multi": ("mamba_unet", {"directions": "multi"}, taming_names("multi")),
    "U-Mamba Bot": ("umamba", {}, umamba_names("bot")),
    "U-Mamba Enc": ("umamba", ENC, umamba_names("enc")),
}


def made_of(network: nn.Module, names: dict[str, str]) -> dict[str, Tensor]:
    """Public weights of a network that was trained on (z, y, x) arrays: this one, seen from there."""
    own = network.state_dict()
    return {public: own[ours].clone() for public, ours in names.items()}


def with_scattered_norms(network: nn.Module) -> nn.Module:
    """Fresh norms are all alike: drawn numbers tell them apart."""
    for key, tensor in network.state_dict().items():
        if tensor.ndim == 1 and tensor.is_floating_point() and "A_log" not in key:
            tensor.uniform_(0.5, 1.5)
    return network


@pytest.mark.parametrize("form", PUBLIC)
def test_the_names_are_those_of_every_parameter_and_no_others(form) -> None:
    name, options, names = PUBLIC[form]
    assert set(names.values()) == set(small(name, **options).state_dict())


@pytest.mark.parametrize("form", PUBLIC)
def test_weights_of_zyx_arrays_answer_alike_on_the_transposed_volume(form) -> None:
    name, options, names = PUBLIC[form]
    original = with_scattered_norms(small(name, **options)).eval()
    axis_order = {} if name in ("nnunet", "nnunet_resenc", "resunet") else {"axis_order": "zyx"}
    ours = with_scattered_norms(small(name, **options, **axis_order)).eval()
    translation = translate(name, ours, made_of(original, names), "zyx")
    assert translation.faults == []
    ours.load_state_dict(translation.weights)
    x = torch.randn(1, 2, 16, 16, 16) if "patch_size" in options else torch.randn(1, 2, 16, 32, 48)
    with torch.no_grad():
        expected, answer = original(x), ours(x.permute(0, 1, 4, 3, 2))
    if answer.ndim == 5:
        answer = answer.permute(0, 1, 4, 3, 2)
    torch.testing.assert_close(answer, expected, rtol=1e-3, atol=1e-4)


def test_weights_of_xyz_arrays_are_taken_as_they_are() -> None:
    name, options, names = PUBLIC["nnMamba"]
    original, ours = small(name, **options), small(name, **options)
    for parameter in ours.parameters():
        parameter.data.add_(1)
    translation = translate(name, ours, made_of(original, names), "xyz")
    ours.load_state_dict(translation.weights)
    own = original.state_dict()
    assert all(torch.equal(tensor, own[key]) for key, tensor in ours.state_dict().items())


def test_the_names_of_monais_blocks_are_those_that_monai_gives() -> None:
    from monai.networks.blocks import UnetOutBlock
    from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrUpBlock

    basic = UnetrBasicBlock(3, 2, 4, 3, 1, "instance", res_block=True)
    up = UnetrUpBlock(3, 8, 4, 3, 2, "instance", res_block=True)
    keys = [f"encoder2.{key}" for key in basic.state_dict()] + [f"decoder5.{key}" for key in up.state_dict()]
    keys += [f"out.{key}" for key in UnetOutBlock(3, 4, 2).state_dict()]
    assert set(keys) <= set(segmamba_names())


def test_copies_and_the_prefixes_of_wrappers_come_to_nothing() -> None:
    name, options, names = PUBLIC["nnU-Net"]
    network = small(name, **options)
    public = made_of(network, names)
    key = "encoder.stages.0.0.convs.0.conv.weight"
    public |= {key.replace("conv.weight", "all_modules.0.weight"): public[key], f"decoder.{key}": public[key]}
    wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in public.items()}
    assert translate(name, network, wrapped).faults == []


def test_every_key_that_does_not_fit_is_named_at_once() -> None:
    name, _, names = PUBLIC["nnMamba"]
    public = made_of(small(name, head="paper"), names)
    network = small(name)  # its head lacks the last norm
    public["conv5.conv.0.weight"] = torch.zeros(1, 2, 3, 3, 3)
    public["unheard.of"] = torch.zeros(4)
    del public["att1.layer1.bias"], public["in_conv.conv.1.num_batches_tracked"]
    public["layer1.2.mamba_layer.nin.weight"] = public["layer1.2.mamba_layer.nin.weight"] + 1
    faults = translate(name, network, public).faults
    assert sorted(faults) == sorted(
        [
            "unknown unheard.of (4,)",
            *(
                f"unknown conv8.conv.4.{key} {shape}: this network has no decoder.head.convs.4.{key}"
                for key, shape in zip(BATCH_NORM, ["(3,)"] * 4 + ["()"], strict=True)
            ),
            "shape conv5.conv.0.weight -> decoder.steps.0.convs.0.weight: "
            "(1, 2, 3, 3, 3) instead of (32, 96, 3, 3, 3)",
            "missing skips.0.weigh.0.bias (1,)",
            "differing stages.0.1.mixer.conv_in.0.weight and stages.0.2.mixer.conv_in.0.weight: "
            "one tensor in this network",
        ]
    )


@pytest.mark.parametrize(
    ("form", "last"), [("nnMamba classifier", "mlp.3"), ("nnMamba v1 classifier", "mlp.2")]
)
def test_one_logit_for_two_classes_becomes_two_outputs_with_its_sigmoid(form, last) -> None:
    """The public classifiers have one output and a binary cross-entropy."""
    name, options, names = PUBLIC[form]
    torch.manual_seed(1)
    single = with_scattered_norms(build_network(name, 2, 1, channels=8, **options)).eval()
    pair = build_network(name, 2, 2, channels=8, **options).eval()
    translation = translate(name, pair, made_of(single, names), "xyz")
    assert translation.faults == []
    assert "one output for two classes" in " ".join(translation.notes)
    pair.load_state_dict(translation.weights)
    x = torch.randn(2, 2, 32, 32, 32)
    with torch.no_grad():
        logit, probabilities = single(x)[:, 0], pair(x).softmax(dim=1)
    torch.testing.assert_close(probabilities[:, 1], logit.sigmoid())
    three = translate(name, build_network(name, 2, 3, channels=8), made_of(single, names), "xyz")
    assert f"shape {last}.bias -> {last}.bias: (1,) instead of (3,)" in three.faults


def test_one_output_of_voxels_is_not_two() -> None:
    name, options, names = PUBLIC["ResUNet"]
    single = build_network(name, 2, 1, channels=8, **options)
    faults = translate(name, build_network(name, 2, 2, channels=8, **options), made_of(single, names)).faults
    assert any(fault.startswith("shape conv8.conv.0.bias") for fault in faults)


@pytest.mark.parametrize("version", ["first", "paper"])
def test_the_earlier_forms_of_segmamba_have_their_names_too(version) -> None:
    """Layer norms stand beside the convolutions in the first one; the paper's has an MLP on the tokens."""
    network = small("segmamba", version=version, depths=[1, 1, 1, 1])
    names = {k: v for k, v in segmamba_names().items() if ".gscs." not in k and "_s" not in k}
    names = {k: v for k, v in names.items() if not k.startswith(("vit.stages", "vit.mlps", "vit.down"))}
    for i in range(4):
        conv = 1 if version == "first" and i else 0
        names |= pairs(f"vit.downsample_layers.{i}.{conv}", f"stages.{i}.0.{conv}", BOTH)
        ways = [name for name in three_ways() if "_s" not in name or name == "A_log"]
        names |= pairs(f"vit.stages.{i}.0.mamba", f"stages.{i}.1.mamba", ways)
        if version == "first":
            norm = 0 if i else 1
            names |= pairs(f"vit.downsample_layers.{i}.{norm}", f"stages.{i}.0.{norm}.norm", BOTH)
            names |= pairs(f"vit.stages.{i}.0.norm", f"stages.{i}.1.norm", BOTH)
            names |= pairs(f"vit.norm{i}", f"outputs.{i}.0.norm", BOTH)
            names |= pairs(f"vit.mlps.{i}.fc1", f"outputs.{i}.1", BOTH)
            names |= pairs(f"vit.mlps.{i}.fc2", f"outputs.{i}.3", BOTH)
        else:
            names |= pairs(f"vit.stages.{i}.0.norm1", f"stages.{i}.1.norm", BOTH)
            names |= pairs(f"vit.stages.{i}.0.norm2", f"stages.{i}.1.mlp.0", BOTH)
            names |= pairs(f"vit.stages.{i}.0.mlp.fc1", f"stages.{i}.1.mlp.1", BOTH)
            names |= pairs(f"vit.stages.{i}.0.mlp.fc2", f"stages.{i}.1.mlp.3", BOTH)
    translation = translate("segmamba", network, made_of(network, names), "xyz")
    assert translation.faults == []
    own = network.state_dict()
    assert all(torch.equal(own[key], tensor) for key, tensor in translation.weights.items())


GSC = {"vit.gscs.0.proj.weight": torch.zeros(1)}
JANUARY = {"module.vit.norm0.weight": torch.zeros(1)}


def test_weights_of_segmamba_with_and_without_residual_have_the_same_keys_so_that_the_user_is_asked() -> None:
    with pytest.raises(RecipeError, match=r"network\.residual: .*26 March to 4 June 2024.*MICCAI 2024"):
        settle_options("segmamba", {"version": "gsc"}, GSC)
    for residual in (False, True):
        options, notes = settle_options("segmamba", {"version": "paper", "residual": residual}, GSC)
        assert options == {"version": "gsc", "residual": residual, "nslices": [64, 32, 16, 8]}
        assert [note.split(":")[0] for note in notes] == ["network.version", "network.nslices"]


def test_weights_of_segmamba_of_january_are_recognized() -> None:
    assert settle_options("segmamba", {"version": "first"}, JANUARY) == ({"version": "first"}, ())
    options, notes = settle_options("segmamba", {"version": "gsc", "residual": True}, JANUARY)
    assert options == {"version": "first", "residual": False}
    assert all("January 2024" in note for note in notes)


def test_norms_of_segmamba_without_weights_are_not_taken_for_none() -> None:
    """Instance norms without weights have no keys, as no norms."""
    for public in (JANUARY, GSC, {"vit.gscs.0.0.deep_path.0.block.0.weight": torch.zeros(1)}):
        options, notes = settle_options("segmamba", {"norm": "none", "residual": False}, public)
        assert options["norm"] == "instance"
        assert any(note.startswith("network.norm: set to instance") for note in notes)


def test_an_assumption_about_a_key_that_the_recipe_states_is_left_out() -> None:
    options, notes = settle_options("segmamba", {"residual": True, "nslices": "auto"}, GSC)
    assert (options["nslices"], notes) == ("auto", ())


def test_networks_of_this_file_have_public_names() -> None:
    tested = {name for name, _, _ in PUBLIC.values()}
    assert tested <= {name for name in NETWORKS if has_public_names(name)}
