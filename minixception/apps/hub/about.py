"""What a hub says about a network: where it was published, and who owns what."""

from __future__ import annotations

from typing import Any

MODELHUB_ID = "dbf35840-9c8d-408f-8a36-b9fe2f8e5546"  # of the Xception that ModelHub offered
IMAGENET = "https://www.image-net.org/challenges/LSVRC/2012/"


def _paper(title: str, authors: str, year: int, arxiv: str, abstract: str) -> dict[str, Any]:
    url = f"https://arxiv.org/abs/{arxiv}"
    key = authors.split(",")[0].split()[-1] + str(year)
    bibtex = (
        f"@article{{{key}, author = {{{authors.replace(', ', ' and ')}}}, title = {{{title}}}, year = {{{year}}}, "
        f"eprint = {{{arxiv}}}, archivePrefix = {{arXiv}}, url = {{{url}}}}}"
    )
    return {
        "title": title,
        "source": "arXiv",
        "year": year,
        "authors": authors,
        "abstract": abstract,
        "url": url,
        "bibtex": bibtex,
    }


_NEXCEPTION = _paper(
    "From Xception to NEXcepTion: New Design Decisions and Neural Architecture Search",
    "Hadar Shavit, Filip Jatelnicki, Pol Mor-Puigventós, Wojtek Kowalczyk",
    2022,
    "2212.08448",
    "Xception with the design decisions of newer networks, found by architecture search (a summary of ours).",
)

PAPERS: dict[str, dict[str, Any]] = {
    "xception": _paper(
        "Xception: Deep Learning with Depthwise Separable Convolutions",
        "François Chollet",
        2016,
        "1610.02357",
        "Inception modules lie between a regular convolution and a depthwise separable one; Xception takes the step "
        "to the end and stacks depthwise separable convolutions with residual connections (a summary of ours).",
    ),
    "inceptionv3": _paper(
        "Rethinking the Inception Architecture for Computer Vision",
        "Christian Szegedy, Vincent Vanhoucke, Sergey Ioffe, Jonathon Shlens, Zbigniew Wojna",
        2015,
        "1512.00567",
        "Large convolutions factorised into smaller and asymmetric ones, in modules of parallel towers (a summary of "
        "ours).",
    ),
    "vgg16": _paper(
        "Very Deep Convolutional Networks for Large-Scale Image Recognition",
        "Karen Simonyan, Andrew Zisserman",
        2014,
        "1409.1556",
        "Sixteen layers with weights, all convolutions 3x3 (a summary of ours).",
    ),
    "resnet152": _paper(
        "Deep Residual Learning for Image Recognition",
        "Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun",
        2015,
        "1512.03385",
        "Identity connections around every few layers let networks of a hundred layers and more train (a summary of "
        "ours).",
    ),
    "nexceptiont": _NEXCEPTION,
    "nexceptiontp": _NEXCEPTION,
    "nexceptions": _NEXCEPTION,
}
"""By the network's name in lower case, without underscores."""

UNPUBLISHED: dict[str, Any] = {
    field: "" for field in ("title", "source", "year", "authors", "abstract", "url", "bibtex")
}

LEGAL = {
    "modelhub_license": "minixception, which answers in ModelHub's place, is under the MIT License: see LICENSE in "
    "its source. It contains no code of ModelHub.",
    "modelhub_acknowledgements": "The questions, addresses and JSON shapes are those of ModelHub (modelhub.ai) and "
    "its engine.",
    "model_license": "The network is part of minixception, under the MIT License. Weights belong to whoever trained "
    "them: the ImageNet weights of Xception that Keras offers were released by François Chollet under the MIT "
    "License; for other files ask where they came from.",
    "sample_data_license": "The sample pictures are drawn by minixception when they are asked for, and are under the "
    "MIT License as it is.",
}
