"""`retinue eval predictions=results.json data=...`: anybody's results, judged as pycocotools does."""

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.detection.coco_results import coco_results
from retinue.tasks.detection.masks import encode
from retinue.tasks.detection.results import Detections
from retinue.tools import command
from retinue.tools.judge import judge

ANCHOR = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_anchor"
SIZE = (60, 80)


def dataset(ids: Any = (1, 2), first: int = 1, count: int = 6, **changes: Any) -> dict[str, Any]:
    """A COCO file: pictures 11, 12, ... with zero to two objects each, polygons and one crowd code."""
    annotations = []
    for i in range(count):
        for k in range(i % 3):
            x, y, w, h = 2 + 40 * k, 3 + i, 30, 40 - i
            annotations.append(
                {
                    "id": first + len(annotations),
                    "image_id": 11 + i,
                    "category_id": ids[(i + k) % len(ids)],
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
    return {
        "images": [
            {"id": 11 + i, "file_name": f"p{i}.png", "height": SIZE[0], "width": SIZE[1]}
            for i in range(count)
        ],
        "categories": [{"id": id, "name": f"class {id}"} for id in ids],
        "annotations": annotations,
        **changes,
    }


def perfect(data: dict[str, Any], *keys: str) -> list[dict[str, Any]]:
    """Results that say what the truth says."""
    results = []
    for i, one in enumerate(data["annotations"]):
        result = {"image_id": one["image_id"], "category_id": one["category_id"], "score": 0.9 - i / 100}
        x, y, w, h = one["bbox"]
        mask = np.zeros(SIZE, bool)
        mask[y : y + h, x : x + w] = True
        values = {"bbox": one["bbox"], "segmentation": encode(mask), "keypoints": one.get("keypoints")}
        results.append(result | {key: values[key] for key in keys or ("bbox",)})
    return results


@pytest.fixture
def ask(tmp_path: Path) -> Any:
    """ask(data, results) -> (figures, remarks)."""

    def ask(data: Any, results: Any, **options: Any) -> tuple[dict[str, float], list[str]]:
        (tmp_path / "truth.json").write_text(json.dumps(data))
        (tmp_path / "results.json").write_text(json.dumps(results))
        return judge(str(tmp_path / "results.json"), str(tmp_path / "truth.json"), **options)

    return ask


@pytest.mark.parametrize("ids", [(0, 1), (1, 2), (3, 90, 17)])
@pytest.mark.parametrize("first", [0, 1])
def test_perfect_results_are_perfect(ids: Any, first: int, ask: Any) -> None:
    """Category ids from 0, from 1 and with holes; annotation ids from 0, which pycocotools takes for unmatched."""
    data = dataset(ids, first)
    values, remarks = ask(data, perfect(data, "bbox", "segmentation"))
    assert next(iter(values)) == "box/AP"
    assert values["box/AP"] == values["mask/AP"] == values[f"box/AP/class {ids[0]}"] == 1
    assert math.isnan(values["box/APl"]) and "no ground truth of this size: box/APs, box/APl" in remarks[0]


def test_ids_are_compared_as_text(ask: Any) -> None:
    data = dataset()
    for kind in (str, float):
        results = perfect(data)
        for result in results:
            result["image_id"], result["category_id"] = kind(result["image_id"]), kind(result["category_id"])
        assert ask(data, results)[0]["box/AP"] == 1
    for image, name in zip(data["images"], ("it's", 'a "b"', "ä\\")):
        image["file_name"] = f"{name}.png"
    results = perfect(data)
    for result in results:
        result["image_id"] = data["images"][result["image_id"] - 11]["file_name"]
    assert ask(data, results)[0]["box/AP"] == 1


def test_our_own_results_as_they_are_written(ask: Any) -> None:
    data = dataset((3, 90, 17))
    classes = ClassMap(("class 3", "class 17", "class 90"), (3, 17, 90))
    results = []
    for image in data["images"]:
        own = [one for one in data["annotations"] if one["image_id"] == image["id"]]
        boxes = np.array([one["bbox"] for one in own], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([classes.index(one["category_id"]) for one in own], np.int64)
        found = Detections(image["file_name"], boxes, np.ones(len(own), np.float32), labels, classes, SIZE)
        results += coco_results(found, image["id"])
    assert ask(data, results)[0]["box/AP"] == 1
    for result in results:  # without the data's json at hand, predict names the file
        result["image_id"] = f"p{result['image_id'] - 11}.png"
    assert ask(data, results)[0]["box/AP"] == 1


@pytest.mark.skipif(not ANCHOR.is_dir(), reason="shared/data/coco_anchor is absent")
@pytest.mark.parametrize(("name", "kind"), [("bbox", "box"), ("segm", "mask")])
def test_anchor(name: str, kind: str) -> None:
    script = (ANCHOR / "check_anchor.py").read_text()
    right = json.loads(script[script.index("ref=") + 4 : script.index("def run")])[name]
    results = ANCHOR / f"instances_val2014_fake{name}100_results.json"
    values, _ = judge(str(results), str(ANCHOR / "instances_val2014_100.json"))
    figures = [value for key, value in values.items() if key.count("/") == 1 and key.startswith(kind)]
    np.testing.assert_allclose(figures, right, rtol=0, atol=1e-10)


def test_traps_of_evaluators(ask: Any) -> None:
    """The edge cases that other evaluators answer with an exception, with -1, or with a wrong number."""
    data = dataset()
    good = perfect(data)
    values, remarks = ask(data, [])
    assert values["box/AP"] == 0 and "no predictions at all" in remarks[-1]
    values, remarks = ask(dict(data, annotations=[]), good)
    assert math.isnan(values["box/AP"]) and "n/a: there is no ground truth." in remarks
    crowd = [{**one, "iscrowd": 1} for one in data["annotations"]]
    assert math.isnan(ask(dict(data, annotations=crowd), good)[0]["box/AP"])
    bare = [{k: v for k, v in one.items() if k != "area"} for one in data["annotations"]]
    assert ask(dict(data, annotations=bare), good)[0]["box/AP"] == 1
    with pytest.raises(
        DataError, match=r"results\.json: entry 0: category_id 7 is not in the data; known are 1, 2"
    ):
        ask(data, [{**one, "category_id": 7} for one in good])
    with pytest.raises(DataError, match=r"results\.json: entry 2: score nan is not a finite number"):
        ask(data, [{**one, "score": math.nan} if i == 2 else one for i, one in enumerate(good)])


def test_figures_are_those_of_pycocotools_on_the_same_files(ask: Any) -> None:
    """Boxes that are off by a little, tied scores, and areas of their own."""
    rng = np.random.default_rng(0)
    data = dataset((3, 90, 17), count=40)
    for one in data["annotations"]:
        one["area"] = float(rng.choice([500, 1024, 5000, 9216, 9217]))
    results = perfect(data)
    for result in results:
        result["bbox"] = (np.array(result["bbox"]) + rng.integers(-4, 5, 4)).tolist()
        result["score"] = int(rng.integers(1, 5)) / 4
    rng.shuffle(results)  # type: ignore[arg-type]
    values, _ = ask(data, results)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"info": {}, **data}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    expected = np.where(evaluation.stats < 0, np.nan, evaluation.stats)
    np.testing.assert_allclose(list(values.values())[:12], expected, rtol=0, atol=1e-12)
    assert 0.1 < values["box/AP"] < 0.9


def test_keypoints_alone_and_beside_boxes(ask: Any) -> None:
    points = [f"p{i}" for i in range(3)]
    data = dataset((1,))
    data["categories"][0]["keypoints"] = points
    for one in data["annotations"]:
        x, y, w, h = one["bbox"]
        one["keypoints"] = [x, y, 2, x + w, y + h, 2, x + w, y, 1]
        one["num_keypoints"] = 3
    values, _ = ask(data, perfect(data, "keypoints"))
    assert values["keypoints/AP"] == 1 and len([k for k in values if k.count("/") == 1]) == 10
    assert list(ask(data, perfect(data, "bbox", "keypoints"))[0])[12] == "keypoints/AP"
    wrong = perfect(data, "keypoints")
    wrong[1]["keypoints"] = wrong[1]["keypoints"][:-1]
    with pytest.raises(DataError, match=r"entry 1: keypoints .* are not finite x, y, visibility"):
        ask(data, wrong)
    wrong[1]["keypoints"] = wrong[1]["keypoints"][:-2]
    with pytest.raises(DataError, match="entry 1: 2 keypoints, the entries before it have 3"):
        ask(data, wrong)


def test_what_the_truth_has_not_is_left_out_or_refused(ask: Any) -> None:
    data = dataset()
    for one in data["annotations"]:
        del one["segmentation"]
    results = perfect(data, "bbox", "segmentation")
    values, remarks = ask(data, results)
    assert values["box/AP"] == 1 and "mask/AP" not in values
    assert any("mask not judged" in remark for remark in remarks)
    with pytest.raises(DataError, match=r"has mask results, but .* has no truth of that kind"):
        ask(data, perfect(data, "segmentation"))


def test_sizes_may_be_known_from_the_masks_only(ask: Any) -> None:
    data = dataset()
    for image in data["images"]:
        del image["height"], image["width"]
    truth_of = {one["image_id"] for one in data["annotations"]}
    results = perfect(data, "segmentation")
    assert {one["image_id"] for one in results} == truth_of
    assert ask(data, results)[0]["mask/AP"] == 1
    with pytest.raises(DataError, match="states no height and width, which masks need"):
        ask(data, results[:1])


def test_a_low_ap_is_explained(ask: Any) -> None:
    data = dataset()
    for one in data["annotations"]:
        one["bbox"] = [one["bbox"][0] + 20, 40, 12, 12]
    corners = perfect(data)
    for result in corners:
        x, y, w, h = result["bbox"]
        result["bbox"] = [x, y, x + w, y + h]
    values, remarks = ask(data, corners)
    assert values["box/AP50"] < 0.5 and any("are x1 y1 x2 y2 where x y width height" in r for r in remarks)


def folder(root: Path, data: dict[str, Any]) -> Path:
    """The data set with its pictures."""
    (root / "valid").mkdir(parents=True)
    for image in data["images"]:
        noise = np.random.default_rng(image["id"]).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        assert cv2.imwrite(str(root / "valid" / image["file_name"]), noise)
    (root / "valid" / "_annotations.coco.json").write_text(json.dumps(data))
    return root


def test_any_detection_data_set_is_truth(tmp_path: Path) -> None:
    data = dataset((3, 90))
    results = tmp_path / "results.json"
    results.write_text(json.dumps(perfect(data, "bbox", "segmentation")))
    values, _ = judge(str(results), str(folder(tmp_path / "data", data)))
    assert values["box/AP"] == values["mask/AP"] == 1
    with pytest.raises(DataError, match="no split 'test'"):
        judge(str(results), str(tmp_path / "data"), split="test")
    with pytest.raises(DataError, match="leave split=val out"):
        judge(str(results), str(tmp_path / "data/valid/_annotations.coco.json"), split="val")


def test_voc_pictures_go_by_their_files_names(tmp_path: Path) -> None:
    root = tmp_path / "voc"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    assert cv2.imwrite(str(root / "JPEGImages/blood_1.jpg"), np.zeros((*SIZE, 3), np.uint8))
    corners = "<xmin>11</xmin><ymin>11</ymin><xmax>30</xmax><ymax>40</ymax>"
    (root / "Annotations/blood_1.xml").write_text(
        f"<annotation><filename>blood_1.jpg</filename><size><width>{SIZE[1]}</width><height>{SIZE[0]}</height>"
        f"<depth>3</depth></size><object><name>cell</name><bndbox>{corners}</bndbox></object></annotation>"
    )
    (root / "ImageSets/Main/val.txt").write_text("blood_1\n")
    file = tmp_path / "results.json"
    for id in ("blood_1", "blood_1.jpg", "JPEGImages/blood_1.jpg"):
        file.write_text(
            json.dumps([{"image_id": id, "category_id": "cell", "bbox": [10, 10, 20, 30], "score": 1}])
        )
        assert judge(str(file), str(root))[0]["box/AP50"] == 1


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = dataset()
    truth, results = tmp_path / "truth.json", tmp_path / "results.json"
    truth.write_text(json.dumps(data))
    results.write_text(json.dumps(perfect(data)))
    words = ["eval", f"predictions={results}", f"data={truth}"]
    assert command.main([*words, f"json={tmp_path / 'figures.json'}"]) == 0
    out = capsys.readouterr().out
    assert "box/AP                       1.0000" in out and "n/a: no ground truth of this size" in out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["box/AP"] == 1 and figures["box/AP/class 1"] == 1
    assert command.main([*words, "json=-"]) == 0
    assert json.loads(capsys.readouterr().out)["box/AP"] == 1
    assert command.main([*words, "model=resnet18"]) == 2
    assert "not both" in capsys.readouterr().err
    results.write_text("[{}]")
    assert command.main(words) == 2
    assert str(results) in capsys.readouterr().err
