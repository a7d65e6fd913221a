"""The named data sets: where each lies, what it holds, how it is verified.

Shapes are those of the page of each set. The hashes of the decompressed MNIST test
files, a9a, dna.scale and mushrooms were computed from copies of the files; where
the others come from is said beside them. A hash that nobody published is left out,
and such a file is held to its shape alone.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple


class File(NamedTuple):
    """One file of a data set."""

    name: str  # uncompressed, below GDSEC_DATA_DIR or the cache
    urls: tuple[str, ...]  # mirrors, tried in order
    shape: tuple[int, ...]  # of the array in it
    sha256: str | None = None  # of the decompressed content
    served_hash: str | None = None  # algorithm:digest of the file as mirrors serve it


class Remote(NamedTuple):
    """A data set to be found or downloaded."""

    task: Literal["binary", "multiclass"]
    page: str
    splits: Mapping[str, tuple[File, ...]]  # one LIBSVM file, or IDX images and labels


_LIBSVM = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/"

# Both mirrors of MNIST are those of torchvision.datasets.mnist and of the checksums
# of TensorFlow Datasets; those of Fashion-MNIST are named on its page.
_MNIST_MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
_FASHION_MIRRORS = (
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)


def _images(
    page: str,
    mirrors: tuple[str, ...],
    folder: str = "",
    sha256: tuple[str | None, ...] = (None,) * 4,
    served: tuple[str | None, ...] = (None,) * 4,
) -> Remote:
    """A set in MNIST's files; hashes: images and labels of train, then of test."""
    hashes = zip(sha256, served, strict=True)
    splits = {}
    for split, prefix, number in (("train", "train", 60_000), ("test", "t10k", 10_000)):
        contents = (("images-idx3", (28, 28)), ("labels-idx1", ()))
        splits[split] = tuple(
            File(
                f"{folder}{prefix}-{kind}-ubyte",
                tuple(f"{mirror}{prefix}-{kind}-ubyte.gz" for mirror in mirrors),
                (number, *shape),
                *next(hashes),
            )
            for kind, shape in contents
        )
    return Remote("multiclass", page, splits)


def _file(path: str, shape: tuple[int, int], sha256=None, served_hash=None) -> File:
    """A file of the LIBSVM site."""
    name = path.rpartition("/")[2].removesuffix(".bz2")
    return File(name, (_LIBSVM + path,), shape, sha256, served_hash)


def _libsvm(
    task: Literal["binary", "multiclass"], anchor: str, **splits: File
) -> Remote:
    """A set of the LIBSVM site, one file a split."""
    page = f"{_LIBSVM}{task}.html#{anchor}"
    return Remote(task, page, {split: (file,) for split, file in splits.items()})


REMOTE: Mapping[str, Remote] = {
    # The training files' hashes are published in several public projects, beside the
    # test files' hashes, which are as computed here.
    "mnist": _images(
        "http://yann.lecun.com/exdb/mnist/",
        _MNIST_MIRRORS,
        sha256=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    # The files are named like MNIST's, so they have a folder of their own. Hashes:
    # tensorflow_datasets/url_checksums/fashion_mnist.txt.
    "fashion_mnist": _images(
        "https://github.com/zalandoresearch/fashion-mnist",
        _FASHION_MIRRORS,
        folder="fashion_mnist/",
        served=(
            "sha256:3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "sha256:a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "sha256:346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "sha256:67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    "dna": _libsvm(
        "multiclass",
        "dna",
        train=_file(
            "multiclass/dna.scale",
            (2_000, 180),
            "f74937ccb8908628058ae1819d4d46c960ce64383f622c994d4f2e6e21026494",
        ),
        test=_file("multiclass/dna.scale.t", (1_186, 180)),
    ),
    # MD5 of rcv1 and covtype: epfml/pax, pax/tasks/datasets/libsvm.py, a single source.
    "rcv1": _libsvm(
        "binary",
        "rcv1.binary",
        train=_file(
            "binary/rcv1_train.binary.bz2",
            (20_242, 47_236),
            served_hash="md5:1aeda848408e621468c0fe6944d9382f",
        ),
        test=_file(
            "binary/rcv1_test.binary.bz2",
            (677_399, 47_236),
            served_hash="md5:d6e3ab397758fb5c036d9cced52aedae",
        ),
    ),
    "w2a": _libsvm(
        "binary",
        "w2a",
        train=_file("binary/w2a", (3_470, 300)),
        test=_file("binary/w2a.t", (46_279, 300)),
    ),
    # w8a and colon-cancer: a public pooch registry whose hash of mushrooms is the
    # one computed here.
    "w8a": _libsvm(
        "binary",
        "w8a",
        train=_file(
            "binary/w8a",
            (49_749, 300),
            "6a9fa8fd5f524303240a5db07d4b3d4a51e8b7b4b20a914105d8e3e8c81640f2",
        ),
        test=_file("binary/w8a.t", (14_951, 300)),
    ),
    # a9a.t: a public report that lists the hash of a9a computed here beside it.
    "a9a": _libsvm(
        "binary",
        "a9a",
        train=_file(
            "binary/a9a",
            (32_561, 123),
            "f5d5ffd8d865ff41328e7ee043e4b020816914ff6843ff15b98905ddbedce906",
        ),
        test=_file(
            "binary/a9a.t",
            (16_281, 123),
            "1f448a153f0320399a7e40836eb207655b0bde0f21fc941cc472193daa9f5de9",
        ),
    ),
    "mushrooms": _libsvm(
        "binary",
        "mushrooms",
        train=_file(
            "binary/mushrooms",
            (8_124, 112),
            "f39a4eb628dc61a7d43760815b061c9e497aa728ce1ad8bde57a09ef6043b538",
        ),
    ),
    "phishing": _libsvm(
        "binary", "phishing", train=_file("binary/phishing", (11_055, 68))
    ),
    "covtype": _libsvm(
        "binary",
        "covtype.binary",
        train=_file(
            "binary/covtype.libsvm.binary.scale.bz2",
            (581_012, 54),
            served_hash="md5:d95f45e15c284005c2c7a4c82e4be102",
        ),
    ),
    "colon_cancer": _libsvm(
        "binary",
        "colon-cancer",
        train=_file(
            "binary/colon-cancer.bz2",
            (62, 2_000),
            served_hash="sha256:"
            "724d7291efb9a833b8407442a27f70f64beeb86c107d7b3ce98e8c48fe878867",
        ),
    ),
}
