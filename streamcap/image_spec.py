"""The pixels that a model expects, as plain geometry. No torch, no decoder; all packages that scale images use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from streamcap.errors import InputError

Fit = Literal["crop", "squash", "pad"]
"""How to fit an image of another aspect ratio: `crop` scales it to cover and cuts out the center, `squash` changes the
aspect ratio, `pad` scales it to fit inside and pads with the mean color."""
Interpolation = Literal["bicubic", "bilinear", "area"]


@dataclass(frozen=True, slots=True)
class Placement:
    """How to place a source image in the model's image: scale it to (`scaled_width`, `scaled_height`), then shift.

    `left` and `top` are the position of the scaled image's corner: negative for a crop, positive for padding, else 0.
    """

    scaled_width: int
    scaled_height: int
    left: int
    top: int


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """The input of a vision encoder: RGB, `(height, width, 3)` uint8, then `(value / 255 - mean) / std`."""

    width: int
    height: int
    fit: Fit = "crop"
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise InputError(f"image size {self.width}x{self.height}: both must be at least 1")
        if self.fit not in get_args(Fit):
            raise InputError(f"image fit {self.fit!r}: it is one of {', '.join(get_args(Fit))}")
        if self.interpolation not in get_args(Interpolation):
            known = ", ".join(get_args(Interpolation))
            raise InputError(f"image interpolation {self.interpolation!r}: it is one of {known}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise InputError("image mean and std: three numbers each, std above 0")

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.width, self.height

    @property
    def fill(self) -> tuple[int, int, int]:
        """The color of padding, RGB 0–255: the mean, which normalizes to about 0."""
        red, green, blue = (min(255, max(0, round(255 * value))) for value in self.mean)
        return red, green, blue

    def place(self, width: int, height: int) -> Placement:
        """The placement of a source image of `width` × `height` pixels.

        `crop` follows CLIP's processor (transformers `get_resize_output_image_size` and `center_crop`): the limiting
        side gets the model's size, the other `int(size * long / short)`; the center is cut out, an odd pixel goes
        to the right and bottom. Raises InputError for an empty image.
        """
        if width < 1 or height < 1:
            raise InputError(f"an image of {width}x{height} pixels is empty")
        if self.fit == "squash":
            return Placement(self.width, self.height, 0, 0)
        # Integer comparison, so that rounding does not choose the limiting side.
        wider = width * self.height >= height * self.width
        by_height = wider if self.fit == "crop" else not wider
        if by_height:
            scaled_width, scaled_height = max(1, int(self.height * width / height)), self.height
        else:
            scaled_width, scaled_height = self.width, max(1, int(self.width * height / width))
        if self.fit == "crop":
            # If the aspect ratios are nearly equal, int() may be a pixel too small to cover.
            scaled_width, scaled_height = max(scaled_width, self.width), max(scaled_height, self.height)
            return Placement(
                scaled_width, scaled_height, -((scaled_width - self.width) // 2), -((scaled_height - self.height) // 2)
            )
        return Placement(
            scaled_width, scaled_height, (self.width - scaled_width) // 2, (self.height - scaled_height) // 2
        )

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint's config."""
        return {
            "width": self.width,
            "height": self.height,
            "fit": self.fit,
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ImageSpec:
        """The inverse of `to_json`; missing fields have defaults. Raises InputError for an invalid field."""
        known = {"width", "height", "fit", "interpolation", "mean", "std"}
        if unknown := set(fields) - known:
            raise InputError(f"image: unknown field {sorted(unknown)[0]!r}")
        try:
            mean = tuple(float(value) for value in fields.get("mean", (0.5, 0.5, 0.5)))
            std = tuple(float(value) for value in fields.get("std", (0.5, 0.5, 0.5)))
            return cls(
                width=int(fields["width"]),
                height=int(fields["height"]),
                fit=fields.get("fit", "crop"),
                interpolation=fields.get("interpolation", "bicubic"),
                mean=cast("tuple[float, float, float]", mean),
                std=cast("tuple[float, float, float]", std),
            )
        except KeyError as error:
            raise InputError(f"image: field {error} is missing") from None
        except (TypeError, ValueError) as error:
            raise InputError(f"image: {error}") from None
