"""The ModelHub view of a network: what it is, what it takes, and what it sees in a picture.

ModelHub (modelhub.ai) offered networks of many papers behind one small interface, Xception among them. ``Hub`` answers
the same questions with the same JSON, and ``minixception serve`` puts it behind the same addresses, with a page to
drop photos on.

    api       Hub: the questions, asked from Python
    about     what config and licences say
    samples   pictures to try
    server    the same over HTTP, on this machine only
    form      an uploaded file out of a request
    fetch     a picture from an address
"""

from __future__ import annotations

from .api import Hub

__all__ = ["Hub"]
