"""CSPDarknet's parts by hand, and the path aggregation around it; what every backbone promises is in test_contract."""

import json

import pytest
import torch
from torch import nn

from retinue.backbones import build
from retinue.backbones.csp_darknet import SIZES, CSPDarknet, Focus, SPPBottleneck, bottlenecks
from retinue.backbones.pafpn import PAFPN


def test_four_pixels_become_four_times_the_channels():
    """Top left, bottom left, top right, bottom right; what an odd side lacks is 0."""
    focus = Focus(1, 4).eval()
    focus.conv = nn.Identity()
    picture = torch.arange(9.0).view(1, 1, 3, 3)
    expected = [[[0, 2], [6, 8]], [[3, 5], [0, 0]], [[1, 0], [7, 0]], [[4, 0], [0, 0]]]
    assert focus(picture)[0].tolist() == expected


def test_maxima_of_maxima_are_those_of_5_9_and_13_cells():
    pooling = SPPBottleneck(4, 8)
    pooling.conv1, pooling.conv2 = nn.Identity(), nn.Identity()
    x = torch.randn(2, 3, 17, 11)
    expected = [x, *(nn.functional.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13))]
    assert torch.equal(pooling(x), torch.cat(expected, 1))


def test_depth_and_width_scale_every_stage():
    assert [bottlenecks(depth) for depth, _, _ in SIZES.values()] == [1, 1, 1, 2, 3, 4]
    with torch.device("meta"):
        large = CSPDarknet(1.0, 1.0)
    assert [len(stage[-1].m) for stage in (large.dark2, large.dark3, large.dark4, large.dark5)] == [
        3,
        9,
        9,
        3,
    ]
    assert [level.channels for level in large.levels.values()] == [3, 64, 128, 256, 512, 1024]


def test_pictures_are_bgr_from_0_to_255():
    picture = torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1)
    assert build("csp_darknet_nano").normalise(picture).flatten().tolist() == [0, 127.5, 255]


def trunk():
    return PAFPN(build("csp_darknet_nano"), depth=0.33, width=0.25, depthwise=True)


def test_computes_only_what_is_asked_for():
    neck, called = trunk().eval(), []
    for name, module in neck.named_children():
        module.register_forward_hook(lambda *_, name=name: called.append(name))
    neck(torch.rand(1, 3, 64, 64), ("c2",))
    assert called == ["body"] and called.clear() is None
    neck(torch.rand(1, 3, 64, 64), ("n3",))
    assert called == ["body", "lateral_conv0", "C3_p4", "reduce_conv1", "C3_p3"] and called.clear() is None
    assert list(neck(torch.rand(1, 3, 64, 64), ("n5",))) == ["n5"]
    assert called[-4:] == ["bu_conv2", "C3_n3", "bu_conv1", "C3_n4"]


def test_it_is_rebuilt_from_what_it_remembers_and_freezes_by_stages():
    first = trunk()
    again = build(first.architecture, **json.loads(json.dumps(first.options)))
    shapes = ({k: v.shape for k, v in network.state_dict().items()} for network in (first, again))
    assert next(shapes) == next(shapes) and again.levels == first.levels
    assert first.pretrained_stages() == ["c1", "c2", "c3", "c4", "c5"]
    first.freeze("c5")
    assert not any(p.requires_grad for p in first.body.parameters())
    assert all(p.requires_grad for module in first.own_modules() for p in module.parameters())


def test_errors_name_what_is_wrong():
    with pytest.raises(KeyError, match="c9"):
        PAFPN(build("csp_darknet_nano"), ("c3", "c4", "c9"))
    with pytest.raises(ValueError, match="three"):
        PAFPN(build("csp_darknet_nano"), ("c4", "c5"))
