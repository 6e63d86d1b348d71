import pytest
import torch
import torchvision.models

from retinue.backbones.googlenet import googlenet

NODES = {
    "c1": "conv1.relu",
    "c2": "conv3.relu",
    "c3": "inception3b.cat",
    "inception4a": "inception4a.cat",
    "inception4d": "inception4d.cat",
    "c4": "inception4e.cat",
    "c5": "inception5b.cat",
}


def reference(classes=10, aux=True):
    return torchvision.models.googlenet(num_classes=classes, aux_logits=aux, init_weights=False)


@pytest.mark.parametrize("aux", [True, False])
def test_maps_and_logits_equal_torchvision(check_parity, aux):
    check_parity(googlenet(classes=10, aux=aux), reference(aux=aux), NODES)


def test_auxiliary_logits_equal_torchvision(spread):
    theirs, ours = spread(reference()).train(), googlenet(classes=10).train()
    ours.load_state_dict(theirs.state_dict())
    for network in (theirs, ours):
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.eval()
    images = torch.rand(2, 3, 96, 96)
    expected = theirs(ours.normalise(images))
    features, top = ours(images), ours.top()
    assert torch.allclose(top(features), expected.logits, rtol=1e-4, atol=1e-4)
    for level, logits in (("inception4a", expected.aux_logits1), ("inception4d", expected.aux_logits2)):
        assert torch.allclose(top.auxiliary[level](features[level]), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("aux", [True, False])
def test_chop_takes_every_head_and_new_ones_have_the_classes_asked_for(aux):
    backbone = googlenet(classes=10, aux=aux)
    top = backbone.chop()
    assert not [key for key in backbone.state_dict() if key.startswith(("fc", "aux"))]
    assert len(top.auxiliary) == (2 if aux else 0)
    top.replace_last(3)
    features = backbone(torch.rand(2, 3, 64, 64))
    assert top(features).shape == (2, 3)
    assert all(head(features[level]).shape == (2, 3) for level, head in top.auxiliary.items())


def test_sizes_of_table_1():
    sizes = googlenet(classes=2, aux=False).output_sizes(224, 224)
    assert [sizes[name][0] for name in ("c1", "c2", "c3", "c4", "c5")] == [112, 56, 28, 14, 7]


def test_parameters_as_published():
    assert sum(p.numel() for p in googlenet(aux=False).parameters()) == 6_624_904
