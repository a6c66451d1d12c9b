"""Writes this folder's pickles; runs on Python 2.7 and later: `python make.py FOLDER TAG`."""

from __future__ import print_function

import os
import sys

import numpy as np

if sys.version_info[0] == 2:
    import cPickle as pickle
else:
    import pickle

FLOATS = np.array([[1.5, -2.0, 3.25], [4.0, 5.0, 6.0]], np.float32)
TEXTS = np.array([[u"a", u"gr\u00fc\u00df"], [u"c", u""]], dtype=object)

INPUTS = {
    "x": FLOATS,
    "f": np.asfortranarray(FLOATS),
    "big": FLOATS.astype(">f8"),
    "flag": np.array([True, False]),
    "text": np.array([["a", "b"], ["", "long text"]]),
    "uni": np.array([u"a", u"gr\u00fc\u00df", u"\U0001F600"]),
    "obj": TEXTS,
    "objf": np.asfortranarray(TEXTS),
    "bytes": np.array([b"ab", b"c"]),
    "empty": np.zeros((0, 3), np.int8),
    "zero_d": np.array(7, np.uint16),
    "half": FLOATS.astype(np.float16),
}
OUTPUTS = {
    "scalar": np.float32(2.5),
    "i64": np.arange(3),
    "u8": np.arange(256).astype(np.uint8),
    "strided": FLOATS[:, ::-1],
    "again": FLOATS,
    "nothing": np.array([], dtype=object),
}

folder, tag = sys.argv[1:]
for protocol in range(getattr(pickle, "HIGHEST_PROTOCOL", 2) + 1):
    with open(os.path.join(folder, "%s_p%d.pkl" % (tag, protocol)), "wb") as file:
        pickle.dump({"test_input": INPUTS, "test_output": OUTPUTS}, file, protocol)
