"""The cells of a comparison."""

from __future__ import annotations

from streamcap.bench.cells import cells, cells_table


def test_cells_compare_with_the_better_runtime() -> None:
    rows = [
        {"contender": name, "frames": frames, "rounds_ms": [taken]}
        for name, frames, taken in (
            ("transformers fp32", 1, 500.0),
            ("streamcap fp32", 4, 597.0),
            ("streamcap fp32", 1, 392.0),
            ("onnxruntime fp32", 1, 430.0),
            ("OpenVINO fp32", 1, 405.0),
            ("OpenVINO fp32", 4, 500.0),
            ("streamcap, no kernels int8", 1, 200.0),
            ("streamcap int8", 1, 133.0),
        )
    ]
    found = cells(rows)
    assert [(cell["precision"], cell["frames"]) for cell in found] == [("fp32", 1), ("fp32", 4), ("int8", 1)]
    assert found[0] | {"best_other": "OpenVINO", "ratio": 0.968, "met": True} == found[0]
    assert found[1]["met"] is False and "ratio" not in found[2]
    text = cells_table(found)
    assert "0.97 × OpenVINO (405.0 ms): met" in text and "1.19 × OpenVINO (500.0 ms): MISSED" in text
    assert text.endswith("not measured")


def test_ratio_is_the_median_over_the_rounds() -> None:
    rows = [
        {"contender": "streamcap fp32", "frames": 4, "rounds_ms": [100.0, 300.0, 90.0]},
        {"contender": "onnxruntime fp32", "frames": 4, "rounds_ms": [110.0, 310.0, 80.0]},
    ]
    (cell,) = cells(rows)
    assert cell["ratio"] == 0.968 and (cell["ours_ms"], cell["other_ms"]) == (100.0, 110.0)
