import json
import tarfile
from pathlib import Path

import pytest

from streamcap.errors import InputError
from streamcap.training.data.corpus import MediaFolder, read_coco, read_flickr, read_msrvtt


def touch(folder: Path, *names: str) -> MediaFolder:
    for name in names:
        (folder / name).write_bytes(b"x")
    return MediaFolder(folder)


def test_flickr_reports_omitted_images(tmp_path: Path) -> None:
    captions = tmp_path / "results.csv"
    captions.write_text(
        "image_name| comment_number| comment\n"
        "a.jpg| 0| A dog .\na.jpg| 1| a dog\na.jpg| 2| ...\ngone.jpg| 0| A cat .\nb.jpg| 0| A | b\nno bar here\n"
    )
    (tmp_path / "train.txt").write_text("a.jpg\ngone.jpg\na.jpg\n")
    (tmp_path / "dev.txt").write_text("b.jpg\n")
    media = touch(tmp_path, "a.jpg", "b.jpg")
    corpus = read_flickr(captions, media, {"train": tmp_path / "train.txt", "dev": tmp_path / "dev.txt"})
    assert [(item.name, item.captions) for item in corpus.splits["train"]] == [("a.jpg", ("A dog .",))]
    assert corpus.splits["dev"][0].captions == ("A | b",)
    assert {(p.name, p.why) for p in corpus.problems} == {
        ("a.jpg", "duplicate caption"),
        ("a.jpg", "empty caption"),
        ("gone.jpg", "missing"),
        ("a.jpg", "duplicate item"),
        ("line 7", "malformed line"),
    }


def test_coco_and_msrvtt_are_read(tmp_path: Path) -> None:
    coco = tmp_path / "captions.json"
    coco.write_text(
        json.dumps(
            {
                "images": [{"id": 7, "file_name": "a.jpg"}],
                "annotations": [{"image_id": 7, "caption": "A dog."}, {"image_id": 8, "caption": "x"}],
            }
        )
    )
    media = touch(tmp_path, "a.jpg", "video0.mp4", "video1.webm")
    corpus = read_coco({"train": coco}, media)
    assert corpus.splits["train"][0].captions == ("A dog.",)
    assert corpus.counts() == {"missing": 1}
    clips = tmp_path / "msrvtt.json"
    videos = [{"video_id": "video0", "split": "train"}, {"video_id": "video1", "split": "validate"}]
    sentences = [{"video_id": "video0", "caption": "a car"}, {"video_id": "video1", "caption": "a bus"}]
    clips.write_text(json.dumps({"videos": videos, "sentences": sentences}))
    read = read_msrvtt(clips, media)
    assert {split: [item.name for item in items] for split, items in read.splits.items()} == {
        "train": ["video0"],
        "dev": ["video1"],
    }


def test_images_are_read_from_tar(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"image")
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        tar.add(tmp_path / "a.jpg", "images/a.jpg")
    media = MediaFolder(tmp_path / "images.tar")
    assert "a.jpg" in media
    assert media.read("a.jpg") == b"image"
    with pytest.raises(OSError, match=r"b\.jpg"):
        media.read("b.jpg")


@pytest.mark.parametrize("what", ["no folder", "no captions", "empty split", "no json", "other json"])
def test_invalid_corpus_is_one_line(tmp_path: Path, what: str) -> None:
    media = touch(tmp_path, "a.jpg")
    captions = tmp_path / "results.csv"
    captions.write_text("image_name| comment_number| comment\na.jpg| 0| A dog .\n")
    (tmp_path / "empty.txt").write_text("other.jpg\n")
    (tmp_path / "bad.json").write_text("{" if what == "no json" else '{"info": 1}')
    with pytest.raises(InputError) as raised:
        if what == "no folder":
            MediaFolder(tmp_path / "nowhere")
        elif what == "no captions":
            read_flickr(tmp_path / "empty.txt", media, {})
        elif what == "empty split":
            read_flickr(captions, media, {"train": tmp_path / "empty.txt"})
        else:
            read_coco({"train": tmp_path / "bad.json"}, media)
    assert "\n" not in str(raised.value)
    assert str(tmp_path) in str(raised.value)
