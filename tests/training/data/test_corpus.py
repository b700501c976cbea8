"""Corpora in every published layout; problems are listed, unusable files are one error line."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from streamcap.errors import InputError
from streamcap.training.data.corpus import Corpus, MediaFolder, read_coco, read_flickr, read_karpathy, read_msrvtt


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


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def captions_of(corpus: Corpus) -> dict[str, list[tuple[str, tuple[str, ...]]]]:
    return {split: [(item.name, item.captions) for item in items] for split, items in corpus.splits.items()}


@pytest.mark.parametrize(
    "content",
    [
        "image_name| comment_number| comment\na.jpg| 0| A dog , it runs .\na.jpg| 1| Dogs run\nb.jpg| 4   A cat .\n",
        "a.jpg#0\tA dog , it runs .\na.jpg#1\tDogs run\nb.jpg#0\tA cat .\n",
        'image,caption\r\na.jpg,"A dog , it runs ."\r\na.jpg,Dogs run\r\nb.jpg,A cat .\r\n',
        'image_name,comment_number,comment\na.jpg,0,"A dog , it runs ."\na.jpg,1,Dogs run\nb.jpg,0,A cat .\n',
    ],
    ids=["flickr30k", "Flickr8k.token.txt", "Kaggle 8k", "Kaggle 30k"],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "bom"])
def test_read_flickr_variants(tmp_path: Path, content: str, mark: str) -> None:
    media = touch(tmp_path, "a.jpg", "b.jpg")
    captions = tmp_path / "captions.txt"
    captions.write_bytes(f"{mark}{content}".encode())
    listed = write(tmp_path / "train.txt", f"{mark}a.jpg\nb.jpg\n")
    expected = {"train": [("a.jpg", ("A dog , it runs .", "Dogs run")), ("b.jpg", ("A cat .",))]}
    corpus = read_flickr(captions, media, {"train": listed})
    assert captions_of(corpus) == captions_of(read_flickr(captions, media, {})) == expected
    assert corpus.problems == []


def test_read_flickr_line_separator_in_caption(tmp_path: Path) -> None:
    media = touch(tmp_path, "a.jpg", "b.jpg")
    captions = write(tmp_path / "c.csv", "a.jpg| 0| a dog\u2028on two lines\nb.jpg| 0| a cat\x85here\x0cand there\n")
    assert captions_of(read_flickr(captions, media, {})) == {
        "train": [("a.jpg", ("a dog on two lines",)), ("b.jpg", ("a cat here and there",))]
    }


def test_read_flickr_malformed_csv_row(tmp_path: Path) -> None:
    media = touch(tmp_path, "a.jpg")
    corpus = read_flickr(write(tmp_path / "c.txt", "image,caption\na.jpg,A dog\nalone\n"), media, {})
    assert [(problem.name, problem.why) for problem in corpus.problems] == [("line 3", "malformed line")]


@pytest.mark.parametrize("flat", [False, True])
def test_read_coco_clipcap_list(tmp_path: Path, flat: bool) -> None:
    """CLIP_prefix_caption's parse_coco.py searches train2014/, then val2014/, by the zero-padded id."""
    for name in ("train2014/COCO_train2014_000000000007.jpg", "val2014/COCO_val2014_000000391895.jpg"):
        path = tmp_path / (name.partition("/")[2] if flat else name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    annotations = [
        {"image_id": "7", "id": 1, "caption": "A dog."},
        {"image_id": "391895", "id": 2, "caption": "A man."},
        {"image_id": 7, "id": 3, "caption": "It runs."},
        {"image_id": "8", "id": 4, "caption": "Gone."},
    ]
    corpus = read_coco({"train": write(tmp_path / "train_caption.json", annotations)}, MediaFolder(tmp_path))
    names = [item.name for item in corpus.splits["train"]]
    assert [Path(name).name for name in names] == ["COCO_train2014_000000000007.jpg", "COCO_val2014_000000391895.jpg"]
    assert all((tmp_path / name).is_file() for name in names)
    assert corpus.splits["train"][0].captions == ("A dog.", "It runs.")
    assert [(p.name, p.why) for p in corpus.problems] == [("train2014/COCO_train2014_000000000008.jpg", "missing")]


def test_read_coco_string_ids_bom_and_folders(tmp_path: Path) -> None:
    (tmp_path / "val2014").mkdir()
    (tmp_path / "val2014" / "a.jpg").write_bytes(b"x")
    content = {
        "images": [{"id": "a0", "file_name": "a.jpg"}],
        "annotations": [{"image_id": "a0", "caption": "A dog."}],
    }
    path = tmp_path / "captions.json"
    path.write_text("\ufeff" + json.dumps(content), encoding="utf-8")
    assert captions_of(read_coco({"dev": path}, MediaFolder(tmp_path))) == {"dev": [("val2014/a.jpg", ("A dog.",))]}


def _karpathy(*images: tuple[str, str, str]) -> dict[str, object]:
    return {
        "dataset": "coco",
        "images": [
            {
                "filepath": folder,
                "filename": name,
                "split": split,
                "sentences": [{"raw": f"of {name}", "tokens": ["x"]}],
            }
            for folder, name, split in images
        ],
    }


def test_read_karpathy_splits(tmp_path: Path) -> None:
    images = [("train2014", "a.jpg", "train"), ("val2014", "b.jpg", "restval"), ("val2014", "c.jpg", "val")]
    images.append(("val2014", "d.jpg", "test"))
    for folder, name, _ in images:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_bytes(b"x")
    path = write(tmp_path / "dataset_coco.json", _karpathy(*images))
    media = MediaFolder(tmp_path)
    corpus = read_karpathy(path, media)
    assert list(corpus.splits) == ["train", "dev", "test"]
    assert captions_of(corpus)["train"] == [("train2014/a.jpg", ("of a.jpg",)), ("val2014/b.jpg", ("of b.jpg",))]
    assert captions_of(corpus)["test"] == [("val2014/d.jpg", ("of d.jpg",))]
    assert captions_of(read_flickr(path, media, {})) == captions_of(corpus)
    with pytest.raises(InputError, match="has its own splits"):
        read_coco({"train": path}, media)


def test_read_msrvtt_public_test_split(tmp_path: Path) -> None:
    media = touch(tmp_path, "video0.mp4")
    content = {
        "videos": [{"video_id": "video0", "split": "public test"}],
        "sentences": [{"video_id": "video0", "caption": "a car"}],
    }
    assert list(read_msrvtt(write(tmp_path / "m.json", content), media).splits) == ["test"]


def test_read_flickr_keeps_girl_beside_boy(tmp_path: Path) -> None:
    """In Hindi the two differ only in vowel signs."""
    media = touch(tmp_path, "a.jpg")
    captions = write(tmp_path / "c.csv", "a.jpg| 0| लड़का दौड़ता है\na.jpg| 1| लड़की दौड़ती है\n")
    corpus = read_flickr(captions, media, {})
    assert len(corpus.splits["train"][0].captions) == 2
    assert corpus.problems == []


@pytest.mark.parametrize(
    "content",
    [
        "image,caption\nx.jpg,A dog, a cat, and a man\n",
        'image,caption\nx.jpg,"A dog, a cat, and a man"\n',
        'image\tcaption\nx.jpg\t"A dog, a cat, and a man"\n',
        "caption;image\n\"A dog, a cat, and a man\";x.jpg\n",
        'image,caption\ny.jpg,"never closed\nx.jpg,"A dog, a cat, and a man"\n',
        "image_name| comment_number| comment\n\ufeffx.jpg| 0| A dog, a cat, and a man\n",
    ],
    ids=["unquoted commas", "quoted", "tabs", "semicolons", "after an open quote", "mark inside"],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_read_flickr_tables(tmp_path: Path, content: str, encoding: str) -> None:
    (tmp_path / "captions.txt").write_text(content, encoding=encoding, newline="\r\n")
    corpus = read_flickr(tmp_path / "captions.txt", touch(tmp_path, "x.jpg"), {})
    assert [item.captions for item in corpus.splits["train"]] == [("A dog, a cat, and a man",)]


@pytest.mark.parametrize(
    ("listed", "stored"),
    [
        ("Images\\x.jpg", "x.jpg"),
        ("C:\\data\\x.jpg", "x.jpg"),
        ("x.jpg", "x.JPG"),
        ("x.jpg", "x.png"),
        ("x", "x.jpeg"),
        ("flickr30k-images/x.jpg", "x.jpg"),
    ],
)
def test_listed_name_finds_its_image(tmp_path: Path, listed: str, stored: str) -> None:
    (tmp_path / "captions.txt").write_text(f"image,caption\n{listed},A dog\ngone.jpg,A cat\n")
    corpus = read_flickr(tmp_path / "captions.txt", touch(tmp_path, stored), {})
    assert [(item.name, item.captions) for item in corpus.splits["train"]] == [(stored, ("A dog",))]
    assert [(problem.name, problem.why) for problem in corpus.problems] == [("gone.jpg", "missing")]


def test_split_file_without_suffixes(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("image,caption\nx.jpg,A dog\ny.jpg,A cat\n")
    (tmp_path / "train.txt").write_text("y\n")
    media = touch(tmp_path, "x.jpg", "y.jpg")
    corpus = read_flickr(tmp_path / "captions.txt", media, {"train": tmp_path / "train.txt"})
    assert [item.name for item in corpus.splits["train"]] == ["y.jpg"]


COCO_PHOTO = "COCO_val2014_000000000007.jpg"
ONE, TWO = {"caption": "A dog"}, {"caption": "A cat"}


@pytest.mark.parametrize(
    "content",
    [
        [{"image_id": 7.0, **ONE}, {"image_id": "7", **TWO}],
        [{"image_id": "000000000007", **ONE}, {"image_id": 7, **TWO}],
        [{"image": f"val2014/{COCO_PHOTO}", "image_id": "coco_7", **ONE}, {"image": f"val2014/{COCO_PHOTO}", **TWO}],
        [{"image": f"val2014/{COCO_PHOTO}", "caption": ["A dog", "A cat"]}],
        {
            "images": [{"id": 7, "file_name": COCO_PHOTO}],
            "annotations": [{"image_id": 7.0, **ONE}, {"image_id": "7", **TWO}],
        },
    ],
    ids=["float and string ids", "padded ids", "files", "list of captions", "ids of two kinds"],
)  # fmt: skip
@pytest.mark.parametrize("lines", [False, True])
def test_read_coco_lists(tmp_path: Path, content: list[object] | dict[str, object], lines: bool) -> None:
    path = tmp_path / "captions.json"
    values = content if lines and isinstance(content, list) else [content]
    path.write_text("\n".join(map(json.dumps, values)) + "\n")
    (tmp_path / "val2014").mkdir()
    corpus = read_coco({"train": path}, touch(tmp_path, f"val2014/{COCO_PHOTO}"))
    assert [(item.name, item.captions) for item in corpus.splits["train"]] == [
        (f"val2014/{COCO_PHOTO}", ("A dog", "A cat"))
    ]
    assert not corpus.problems
