from mambamed.ssm import Mamba
from tests.networks.monai_reference import count, on_meta


def test_resunet_is_nnmamba_v1_for_landmarks_without_its_mamba() -> None:
    """architectures.md counts 15.191 M of that; a LayerNorm and a Mamba of width 32 are left out."""
    left_out = 2 * 32 + count(Mamba(32))
    options = {"head": "paper", "deep_supervision": False}
    ours = count(on_meta("resunet", 1, 6, **options))
    assert round((ours + left_out) / 1e6, 3) == 15.191
    assert ours == count(on_meta("nnmamba_v1", 1, 6, mixer="none", **options))
