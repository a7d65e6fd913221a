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
    splits: dict[str, tuple[File, ...]]  # one LIBSVM file, or IDX images and labels


_LIBSVM = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/"
# The page and the mirrors of a set from elsewhere. Both mirrors of MNIST are those of
# torchvision.datasets.mnist and of the checksums of TensorFlow Datasets; those of
# Fashion-MNIST are named on its page.
_ELSEWHERE = {
    "mnist": (
        "http://yann.lecun.com/exdb/mnist/",
        (
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
    ),
    "fashion_mnist": (
        "https://github.com/zalandoresearch/fashion-mnist",
        (
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
    ),
}


# The set by its name on its page, a split, its task and the file, the shape, and a
# hash: of the decompressed content, or algorithm:digest of the file as it is served.
# MNIST: the training files' hashes are published in several public projects, beside the
# test files' hashes, which are as computed here. Fashion-MNIST, whose files have the
# same names and so a folder: tensorflow_datasets/url_checksums/fashion_mnist.txt.
# MD5 of rcv1 and covtype: epfml/pax, pax/tasks/datasets/libsvm.py, a single source.
# w8a and colon-cancer: a public pooch registry whose hash of mushrooms is the one
# computed here. a9a.t: a public report that lists the hash of a9a computed here.
_FILES = """
mnist          train  multiclass/train-images-idx3-ubyte.gz  60000x28x28
    ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db
mnist          train  multiclass/train-labels-idx1-ubyte.gz  60000
    65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5
mnist          test   multiclass/t10k-images-idx3-ubyte.gz   10000x28x28
    0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7
mnist          test   multiclass/t10k-labels-idx1-ubyte.gz   10000
    ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2
fashion_mnist  train  multiclass/fashion_mnist/train-images-idx3-ubyte.gz  60000x28x28
    sha256:3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84
fashion_mnist  train  multiclass/fashion_mnist/train-labels-idx1-ubyte.gz  60000
    sha256:a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845
fashion_mnist  test   multiclass/fashion_mnist/t10k-images-idx3-ubyte.gz   10000x28x28
    sha256:346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073
fashion_mnist  test   multiclass/fashion_mnist/t10k-labels-idx1-ubyte.gz   10000
    sha256:67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5
dna            train  multiclass/dna.scale                      2000x180
    f74937ccb8908628058ae1819d4d46c960ce64383f622c994d4f2e6e21026494
dna            test   multiclass/dna.scale.t                    1186x180    none
rcv1.binary    train  binary/rcv1_train.binary.bz2             20242x47236
    md5:1aeda848408e621468c0fe6944d9382f
rcv1.binary    test   binary/rcv1_test.binary.bz2             677399x47236
    md5:d6e3ab397758fb5c036d9cced52aedae
w2a            train  binary/w2a                                3470x300    none
w2a            test   binary/w2a.t                             46279x300    none
w8a            train  binary/w8a                               49749x300
    6a9fa8fd5f524303240a5db07d4b3d4a51e8b7b4b20a914105d8e3e8c81640f2
w8a            test   binary/w8a.t                             14951x300    none
a9a            train  binary/a9a                               32561x123
    f5d5ffd8d865ff41328e7ee043e4b020816914ff6843ff15b98905ddbedce906
a9a            test   binary/a9a.t                             16281x123
    1f448a153f0320399a7e40836eb207655b0bde0f21fc941cc472193daa9f5de9
mushrooms      train  binary/mushrooms                          8124x112
    f39a4eb628dc61a7d43760815b061c9e497aa728ce1ad8bde57a09ef6043b538
phishing       train  binary/phishing                          11055x68    none
covtype.binary train  binary/covtype.libsvm.binary.scale.bz2  581012x54
    md5:d95f45e15c284005c2c7a4c82e4be102
colon-cancer   train  binary/colon-cancer.bz2                     62x2000
    sha256:724d7291efb9a833b8407442a27f70f64beeb86c107d7b3ce98e8c48fe878867
"""


def _sets() -> dict[str, Remote]:
    """The table by set and split."""
    sets, words = {}, iter(_FILES.split())
    for anchor, split, path, shape, digest in zip(*[words] * 5, strict=True):
        task, _, served = path.partition("/")
        there = f"{_LIBSVM}{task}.html#{anchor}", (f"{_LIBSVM}{task}/",)
        page, mirrors = _ELSEWHERE.get(anchor, there)
        file = File(
            name=served.removesuffix(".bz2").removesuffix(".gz"),
            urls=tuple(mirror + served.rpartition("/")[2] for mirror in mirrors),
            shape=tuple(map(int, shape.split("x"))),
            sha256=None if digest == "none" or ":" in digest else digest,
            served_hash=digest if ":" in digest else None,
        )
        name = anchor.removesuffix(".binary").replace("-", "_")
        splits = sets.setdefault(name, Remote(task, page, {})).splits
        splits[split] = (*splits.get(split, ()), file)
    return sets


REMOTE: Mapping[str, Remote] = _sets()
