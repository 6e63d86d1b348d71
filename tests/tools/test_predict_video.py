"""Videos: frame by frame the answers of the same pictures, drawn as a video, and broken files named."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from retinue.datasets.plain import find_pictures
from retinue.datasets.targets import ClassMap, DataError
from retinue.datasets.video import Video, VideoWriter
from retinue.tasks.detection.results import Detections
from retinue.tools import command
from retinue.tools.predict import Predictor, predict

COLOURS = [(220, 30, 30), (30, 30, 220), (220, 220, 30)]


def film(path: Path, frames: int = 7, size: tuple[int, int] = (48, 64), code: str = "mp4v") -> Path:
    """A video of 10 frames a second that turns red, blue, yellow, red ..."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 10, (size[1], size[0]))
    assert writer.isOpened()
    for i in range(frames):
        writer.write(np.full((*size, 3), COLOURS[i % 3][::-1], np.uint8))
    writer.release()
    return path


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str, Path]]:
    """run(model, words...) -> exit status, standard output, standard error, the results' folder."""

    def run(model: Any, *words: Any) -> tuple[int, str, str, Path]:
        project = tmp_path / "out"
        status = command.main(
            ["predict", str(model), f"project={project}", "name=r", "device=cpu", *map(str, words)]
        )
        said = capsys.readouterr()
        return status, said.out, said.err, project / "r"

    return run


@pytest.mark.parametrize(
    ("suffix", "code"), [("mp4", "mp4v"), ("avi", "MJPG"), ("mov", "mp4v"), ("mkv", "mp4v")]
)
def test_frames_come_with_number_and_time(suffix: str, code: str, tmp_path: Path) -> None:
    video = Video.open(film(tmp_path / f"a b.{suffix}", code=code))
    assert video.rate == pytest.approx(10) and video.count == 7
    frames = list(video.frames())
    assert [frame.number for frame in frames] == list(range(7))
    assert [frame.time for frame in frames] == pytest.approx([i / 10 for i in range(7)], abs=1e-3)
    for frame in frames:
        assert frame.picture.shape == (48, 64, 3)
        assert np.abs(frame.picture.mean((0, 1)) - COLOURS[frame.number % 3]).max() < 30
    assert [frame.number for frame in video.frames(3)] == [0, 3, 6]
    assert [frame.time for frame in video.frames(3)] == pytest.approx([0, 0.3, 0.6], abs=1e-3)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    pictures = [np.full((48, 64, 3), colour, np.uint8) for colour in COLOURS]
    writer = VideoWriter(tmp_path / "x.mp4", 12.5)
    for picture in (*pictures, pictures[0][:20, :20]):
        writer.write(picture)
    writer.close()
    video = Video.open(tmp_path / "x.mp4")
    read = [frame.picture for frame in video.frames()]
    assert video.rate == 12.5 and len(read) == 4 and read[3].shape == (48, 64, 3)
    assert all(np.abs(a.astype(int) - b).max() < 30 for a, b in zip(read, pictures))


@pytest.mark.parametrize("content", [b"", b"no video" * 50])
def test_what_is_no_video_is_named(content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.mp4"):
        Video.open(path)
    assert capfd.readouterr().err == ""  # OpenCV and FFmpeg do not speak for themselves
    with pytest.raises(DataError, match="no such file"):
        Video.open(tmp_path / "none.mp4")
    with pytest.raises(DataError, match="cannot be written"):
        VideoWriter(tmp_path / "no/folder.mp4", 10).write(np.zeros((8, 8, 3), np.uint8))


def test_videos_are_found_beside_pictures(paint: Any, tmp_path: Path) -> None:
    paint(tmp_path / "in/b.png"), film(tmp_path / "in/deep/A.MP4"), film(tmp_path / "in/.hidden/c.mp4")
    assert find_pictures([tmp_path / "in"]) == [tmp_path / "in/b.png"]
    found = find_pictures([tmp_path / "in", tmp_path / "in/d*"], videos=True)
    assert found == [tmp_path / "in/b.png", tmp_path / "in/deep/A.MP4"]
    with pytest.raises(DataError, match="without pictures"):
        find_pictures([tmp_path / "in/deep"])


def test_a_record_a_frame_and_a_drawn_video(saved: Path, run: Any, paint: Any, tmp_path: Path) -> None:
    clip = film(tmp_path / "in/clip.avi", code="MJPG")
    paint(tmp_path / "in/photo.png")
    status, out, err, folder = run(saved, tmp_path / "in", "batch=3")
    assert (status, err) == (0, "")
    photo, line, last = out.splitlines()
    assert "photo.png: " in photo and f"{clip}: 7 frames, " in line and "frames/s" in line
    assert last == f"1 picture, 7 frames -> {folder}"
    first, *frames = json.loads((folder / "results.json").read_text())["results"]
    assert "frame" not in first and [f["frame"] for f in frames] == list(range(7))
    assert [f["time"] for f in frames] == pytest.approx([i / 10 for i in range(7)], abs=1e-3)
    assert {f["path"] for f in frames} == {str(clip)} and {*map(str, frames[0]["drawn"])} == {"clip.mp4"}
    drawn, source = Video.open(folder / "clip.mp4"), Video.open(clip)
    assert drawn.rate == source.rate and drawn.count == 7
    pictures = [frame.picture for frame in source.frames()]
    assert next(drawn.frames()).picture.shape == pictures[0].shape
    alone = Predictor.open(str(saved), device="cpu")(pictures)
    for record, answer in zip(frames, alone):
        assert record["classification"]["label"] == answer["classification"].label
        assert record["classification"]["score"] == pytest.approx(answer["classification"].score, abs=1e-5)
    assert {p.name for p in folder.iterdir()} == {"photo.png", "clip.mp4", "results.json", "args.yaml"}


def test_every_third_frame_keeps_the_time(saved: Path, run: Any, tmp_path: Path) -> None:
    clip = film(tmp_path / "clip.mp4", frames=12)
    status, _, _, folder = run(saved, clip, "every=3")
    records = json.loads((folder / "results.json").read_text())["results"]
    assert status == 0 and [r["frame"] for r in records] == [0, 3, 6, 9]
    assert Video.open(folder / "clip.mp4").rate == pytest.approx(10 / 3, abs=0.01)
    found = predict(str(saved), clip, every=6, device="cpu")
    assert [(f.path, f.frame, f.time) for f in found] == [
        (clip, 0, 0.0),
        (clip, 6, pytest.approx(0.6, abs=1e-3)),
    ]
    path, results = found[0]
    assert path == clip and results["classification"].label == records[0]["classification"]["label"]


def test_without_drawing_no_video_is_written(saved: Path, run: Any, tmp_path: Path) -> None:
    status, _, _, folder = run(saved, film(tmp_path / "clip.mp4"), "draw=false")
    assert status == 0 and {p.name for p in folder.iterdir()} == {"results.json", "args.yaml"}


def test_a_broken_video_is_skipped_by_name_and_strict_stops(saved: Path, run: Any, tmp_path: Path) -> None:
    clip, broken = film(tmp_path / "clip.mp4"), tmp_path / "broken.mp4"
    broken.write_bytes(clip.read_bytes()[:200])
    status, out, err, folder = run(saved, broken, clip)
    assert status == 0 and "skipped" in out and "broken.mp4" in out and "Traceback" not in err
    value = json.loads((folder / "results.json").read_text())
    assert [s["path"] for s in value["skipped"]] == [str(broken)] and len(value["results"]) == 7
    assert run(saved, broken, clip, "strict=true")[0] == 2
    status, _, err, _ = run(saved, broken)
    assert status == 2 and "none of the 1" in err
    with pytest.raises(DataError, match=r"broken\.mp4"):
        predict(str(saved), broken, strict=True, device="cpu")


def test_a_cut_video_gives_its_frames_and_is_named(saved: Path, run: Any, tmp_path: Path) -> None:
    clip, cut = film(tmp_path / "clip.avi", frames=40, code="MJPG"), tmp_path / "cut.avi"
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    status, out, _, folder = run(saved, cut)
    value = json.loads((folder / "results.json").read_text())
    assert status == 0 and 5 < len(value["results"]) < 38
    assert "nothing can be read after frame" in out and value["skipped"][0]["path"] == str(cut)
    assert Video.open(folder / "cut.mp4").count == len(value["results"])
    assert len(predict(str(saved), cut, device="cpu")) == len(value["results"])


class FindsColours:
    """Stands for a detector: one sure box with the picture's own red as x2, and a weak one."""

    classes = ClassMap(("thing", "other"), (3, 7))
    model = SimpleNamespace(backbone=SimpleNamespace(in_channels=3), named_tasks={})

    def __call__(
        self, pictures: Sequence[np.ndarray], ids: Sequence[str], inputs: Any = None
    ) -> list[dict[str, Any]]:
        found = []
        for id, picture in zip(ids, pictures):
            boxes = np.array([[0, 0, picture[0, 0, 0] / 20, 9], [1, 2, 3, 4]], np.float32)
            scores, labels = np.array([0.875, 0.125], np.float32), np.array([0, 1])
            found.append({"it": Detections(id, boxes, scores, labels, self.classes, picture.shape[:2])})
        return found


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(Predictor, "open", lambda *_: FindsColours())
    return "detector"


def test_weak_detections_are_not_shown_but_are_judged(
    detector: str, run: Any, paint: Any, tmp_path: Path
) -> None:
    (
        paint(tmp_path / "in/000000000139.png"),
        paint(tmp_path / "in/cat.png", "blue"),
        film(tmp_path / "in/c.mp4"),
    )
    status, out, err, folder = run(detector, tmp_path / "in")
    assert (status, err) == (0, "") and "cat.png: 1 thing\n" in out
    records = json.loads((folder / "results.json").read_text())["results"]
    assert [record["it"]["label_ids"] for record in records] == [[3]] * 9
    predictions = json.loads((folder / "predictions.json").read_text())
    assert [(p["image_id"], p["category_id"]) for p in predictions] == [
        (139, 3), (139, 7), ("cat.png", 3), ("cat.png", 7)
    ]  # fmt: skip
    assert [p["score"] for p in predictions] == [0.875, 0.125] * 2
    assert len(predict(detector, tmp_path / "in/cat.png", conf=0)[0].results["it"]) == 2
    assert len(predict(detector, tmp_path / "in/cat.png", conf=0.9)[0].results["it"]) == 0


def test_pictures_of_one_name_are_told_apart(detector: str, run: Any, paint: Any, tmp_path: Path) -> None:
    one, other = paint(tmp_path / "a/1.png"), paint(tmp_path / "b/1.png")
    _, out, _, folder = run(detector, one, other)
    assert f"{other}: image_id 1 is that of {one}" in out
    predictions = json.loads((folder / "predictions.json").read_text())
    assert [p["image_id"] for p in predictions] == [1, 1, str(other), str(other)]


def test_inputs_reach_the_task_beside_their_picture(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, seen = Predictor.open(str(saved), device="cpu"), []
    real = predictor.model.predict
    monkeypatch.setattr(predictor.model, "predict", lambda batch: seen.append(batch.inputs) or real(batch))
    pictures = [np.zeros((32, 32, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)]
    boxes = [np.array([[4, 8, 12, 16]], np.float32), np.array([[4, 8, 12, 16], [0, 0, 64, 64]], np.float32)]
    predictor(pictures, inputs=[{"proposals": each} for each in boxes])
    assert [len(each) for each in seen[0]["proposals"]] == [1, 2]
    with pytest.raises(ValueError):
        predictor(pictures, inputs=[{"proposals": boxes[0]}])
