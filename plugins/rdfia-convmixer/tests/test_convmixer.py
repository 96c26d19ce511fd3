"""The network of the paper, held to another library's."""

import pytest
import torch
from rdfia_convmixer.models import convmixer

from rdfia_cli.errors import ComponentError
from rdfia_cli.spec import InputSpec


def parameters(model) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_papers_convmixer_768_32_has_21_million_parameters():
    with torch.device("meta"):
        model = convmixer(InputSpec((3, 224, 224), 1000), dim=768, depth=32, kernel=7, patch=7)
    assert parameters(model) == 21_110_248


def test_with_equal_weights_it_gives_the_logits_of_timms():
    library = pytest.importorskip("timm.models.convmixer")
    theirs = library.ConvMixer(dim=12, depth=3, kernel_size=5, patch_size=2, num_classes=7).eval()
    ours = convmixer(InputSpec((3, 16, 16), 7), dim=12, depth=3, kernel=5, patch=2).eval()
    weights = theirs.state_dict().values()
    ours.load_state_dict(dict(zip(ours.state_dict(), weights, strict=True)))
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize("settings", [{"patch": 3}, {"kernel": 4}])
def test_what_would_cut_pixels_off_is_refused(settings):
    with pytest.raises(ComponentError):
        convmixer(**settings)
