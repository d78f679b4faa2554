"""Options of all data modules that read the user's image files."""

from typing import Any, Literal

from PIL import ImageColor

from common.errors import UserError
from datamodules.images.reading import ImageReader, Resize


class ImageFileOptions:
    """Base class, beside a data module, with the options that bring image files to one size.

    Args:
        Image files:
        resize: Rule for images of other sizes and aspect ratios. `crop` resizes the shorter side
            to `size` and crops the longer one, `pad` resizes the longer side and fills the rest
            with `background`, `stretch` ignores the aspect ratio. Small images are enlarged.
        position: Position of the crop in training: `centre`, or `random`, drawn anew in each epoch.
            Validation and test images are cropped at the centre.
        background: Colour behind transparent pixels and around padded images, such as white or
            "#102030".
        **kwargs: Arguments of the data module.

    Raises:
        UserError: If `background` is no colour, or if `position` is given without a crop.
    """

    def __init__(
        self,
        resize: Resize = "crop",
        position: Literal["centre", "random"] = "centre",
        background: str = "white",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if position == "random" and resize != "crop":
            raise UserError(
                f"data.position random has no effect with data.resize {resize}: leave one of them "
                "out"
            )
        try:
            ImageColor.getrgb(background)
        except ValueError as error:
            raise UserError(
                f"data.background {background}: is not a colour; give a name such as white, or "
                "#rrggbb"
            ) from error
        self.resize, self.position, self.background = resize, position, background

    def reader(self, split: str, size: int, channels: int, **options: Any) -> ImageReader:
        """Return the reader of the images of a split; `options` are passed to `ImageReader`."""
        random = self.position == "random" and split == "train"
        return ImageReader(
            size, channels, self.resize, random, background=self.background, **options
        )
