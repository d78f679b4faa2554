"""Data module of the data sets of the CycleGAN and pix2pix papers."""

from typing import Any, Literal

from jsonargparse.typing import PositiveInt

from common.errors import UserError
from datamodules.base import corpus_root
from datamodules.download import obtain
from datamodules.pairs.folder import PairFolder

CYCLEGAN = (
    *(
        "apple2orange",
        "summer2winter_yosemite",
        "horse2zebra",
        "monet2photo",
        "cezanne2photo",
        "ukiyoe2photo",
    ),
    *("vangogh2photo", "maps", "facades", "iphone2dslr_flower"),
)


PIX2PIX = ("facades", "maps", "edges2shoes", "edges2handbags", "night2day")


ADDRESSES = {
    "cyclegan": [
        "https://people.eecs.berkeley.edu/~taesung_park/CycleGAN/datasets/{}.zip",
        "http://efrosgans.eecs.berkeley.edu/cyclegan/datasets/{}.zip",
    ],
    "pix2pix": ["http://efrosgans.eecs.berkeley.edu/pix2pix/datasets/{}.tar.gz"],
}


class PaperArchive(PairFolder):
    """Data set of the CycleGAN or pix2pix paper.

    The archive is downloaded to `<root>/<collection>/`, unless it is already there.

    Args:
        collection: Paper that published the data set. `cyclegan` has unpaired images, `pix2pix` has
            pairs of side-by-side images.
        dataset: Name of the data set in the collection, such as horse2zebra or facades.
        **kwargs: Arguments of `PairFolder`.

    Raises:
        UserError: If the collection has no such data set.
    """

    def __init__(
        self,
        collection: Literal["cyclegan", "pix2pix"] = "cyclegan",
        dataset: str = "horse2zebra",
        load_size: PositiveInt | None = 286,
        root: str | None = None,
        **kwargs: Any,
    ) -> None:
        known = {"cyclegan": CYCLEGAN, "pix2pix": PIX2PIX}[collection]
        if dataset not in known:
            raise UserError(
                f"data.dataset {dataset}: {collection} has no such data set; give one of "
                f"{', '.join(known)}"
            )
        self.collection, self.dataset = collection, dataset
        folder, paired = str(corpus_root(root) / collection / dataset), collection == "pix2pix"
        super().__init__(
            folder=folder,
            folder_a=None,
            folder_b=None,
            channels=3,
            load_size=load_size,
            paired=paired,
            root=root,
            **kwargs,
        )

    def check(self) -> None:
        """Do nothing, because the files may not exist before `prepare_data`."""

    def prepare_data(self) -> None:
        folder = self.folders[0]
        if folder.is_dir():
            return
        addresses = [address.format(self.dataset) for address in ADDRESSES[self.collection]]
        obtain(addresses, folder.with_name(addresses[0].rpartition("/")[2]), folder)
