"""Training curves: a CSV that is appended row by row, and a PNG plot of it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from streamcap.atomic import atomic_write
from streamcap.errors import StreamcapError

COLUMNS = ("step", "epoch", "learning_rate", "loss", "reward", "dev_cider", "dev_bleu4", "dev_beam", "exact")
"""`reward`: mean CIDEr-D of sampled captions, in self-critical training only. `dev_beam`: beam size of the dev
captions. `exact`: share of captions that match a reference word for word: for `mini` on synthetic scenes, else on the
dev split."""

_SCORES = (
    ("dev_cider", "dev CIDEr", "tab:red"),
    ("dev_bleu4", "dev BLEU-4", "tab:green"),
    ("exact", "exact", "tab:orange"),
    ("reward", "CIDEr-D of sampled captions", "tab:pink"),
)


class Curves:
    """`curves.csv` of a run. Rows after `step` are dropped, because a resumed run writes them again.

    Raises StreamcapError if the file cannot be written; then it is unchanged.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [row for row in read_curves(path) if int(row["step"]) <= step] if path.is_file() else []
        content = io.StringIO(newline="")
        writer = csv.DictWriter(content, COLUMNS)
        writer.writeheader()
        writer.writerows(kept)
        atomic_write(path, content.getvalue().encode(), sync=True, error=StreamcapError)

    def add(self, **row: float | int | None) -> None:
        """Append one row; missing columns stay empty. Raises StreamcapError if the file cannot be written."""
        try:
            with self.path.open("a", newline="", encoding="utf-8") as stream:
                csv.DictWriter(stream, COLUMNS).writerow(
                    {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
                )
        except OSError as error:
            raise StreamcapError(f"{self.path}: cannot be written ({error.strerror or error})") from None


def read_curves(path: Path) -> list[dict[str, str]]:
    """The rows of a curves.csv; every value is text."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def draw_curves(source: Path, target: Path, title: str) -> None:
    """Plot loss over steps, and scores on a second axis. Raises StreamcapError if `target` cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_curves(source)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left = figure.add_subplot()
    loss = [(int(row["step"]), float(row["loss"])) for row in rows if row["loss"]]
    left.plot([step for step, _ in loss], [value for _, value in loss], color="tab:blue", linewidth=1, label="loss")
    left.set_xlabel("step")
    left.set_ylabel("training loss")
    left.set_title(title)
    right = left.twinx()
    for column, label, color in _SCORES:
        points = [(int(row["step"]), float(row[column])) for row in rows if row.get(column)]
        if points:
            right.plot([x for x, _ in points], [y for _, y in points], "o-", color=color, markersize=3, label=label)
    right.set_ylabel("scores")
    right.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=5)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    atomic_write(target, content.getvalue(), sync=True, error=StreamcapError)
