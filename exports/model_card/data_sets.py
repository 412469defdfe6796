"""License and authors of the training images, and their identifier on the Hugging Face Hub."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class DataSet(NamedTuple):
    """The training images of a model.

    Attributes:
        title: the name to print; from a folder it may be any text.
        hub_id: of the same data set on the Hub; None if there is none, or if it is unknown.
        license: as the data set states it, or None.
        authors: to be named, or None.
    """

    title: str
    hub_id: str | None
    license: str | None
    authors: str | None


_NAMED = {
    "mnist": DataSet(
        "MNIST", "ylecun/mnist", "CC-BY-SA-3.0", "Yann LeCun, Corinna Cortes and Christopher J. C. Burges"
    ),
    "fashion-mnist": DataSet("Fashion-MNIST", "zalando-datasets/fashion_mnist", "MIT", "Zalando SE"),
    "kmnist": DataSet(
        "KMNIST",
        None,
        "CC-BY-SA-4.0",
        "KMNIST Dataset (created by CODH), adapted from Kuzushiji Dataset (created by NIJL and others),"
        " doi:10.20676/00000341",
    ),
}


def data_set(manifest: Mapping[str, Any]) -> DataSet:
    """Returns the data set of a manifest; the license and the attribution of the run's settings take precedence."""
    source = manifest.get("data")
    known = _NAMED.get(str(source), DataSet(str(source or "unnamed images"), None, None, None))
    return known._replace(
        license=manifest.get("license") or known.license, authors=manifest.get("attribution") or known.authors
    )
