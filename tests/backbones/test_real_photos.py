"""Real weights on real photos: the answers are torchvision's, picture for picture."""

from pathlib import Path

import cv2
import pytest
import torch
import torchvision.models

from retinue.backbones import build

DATA = Path(__file__).parents[3] / "shared" / "data"
PHOTOS = DATA / "imagenet_sample"
WEIGHTS = {
    "mobilenet_v2": DATA / "weights" / "mobilenet_v2_imagenet.pth",
    "squeezenet1_1": DATA / "weights" / "squeezenet1_1_imagenet.pth",
}


def photos(preprocessing, count):
    """(count, 3, crop, crop), RGB in [0, 1]: shorter side resized, then the central square."""
    if not PHOTOS.is_dir():
        pytest.skip(f"needs {PHOTOS}")
    pictures = []
    for path in sorted(PHOTOS.glob("*.JPEG"))[:count]:
        picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        height, width = picture.shape[:2]
        scale, crop = preprocessing.resize / min(height, width), preprocessing.crop
        size = (round(width * scale), round(height * scale))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        top, left = (size[1] - crop) // 2, (size[0] - crop) // 2
        pictures.append(torch.from_numpy(picture[top : top + crop, left : left + crop]))
    assert len(pictures) == count
    return torch.stack(pictures).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("count", [16, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", WEIGHTS)
def test_top1_equals_torchvisions_on_every_photo(name, count):
    if not WEIGHTS[name].is_file():
        pytest.skip(f"needs {WEIGHTS[name]}")
    ours = build(name, str(WEIGHTS[name])).eval()
    theirs = getattr(torchvision.models, name)()
    theirs.load_state_dict({k: v.float() for k, v in torch.load(WEIGHTS[name], weights_only=True).items()})
    theirs.eval()
    mean = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
    std = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
    pictures, top, right = photos(ours.preprocessing, count), ours.top(), 0
    with torch.no_grad():
        for i in range(0, count, 4):
            batch = pictures[i : i + 4]
            logits, expected = top(ours(batch)), theirs((batch - mean) / std)
            assert torch.equal(logits.argmax(1), expected.argmax(1))
            assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-4)
            right += sum(is_named(ours, label, i + j) for j, label in enumerate(logits.argmax(1).tolist()))
    assert right >= 0.5 * count, right


def is_named(backbone, label, index):
    """Whether the class's name is the one in the file's name."""
    named = sorted(PHOTOS.glob("*.JPEG"))[index].stem.split("_", 1)[1].replace("_", " ").lower()
    return backbone.categories[label].lower() == named
