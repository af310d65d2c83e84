#!/bin/sh
# The registration programs that ours is measured beside, in an environment of their own: nothing of it is needed at run time.
# PEERS_HOME (default .peers) says where. plastimatch is a program, not a package: Debian's `plastimatch`, on PATH or in
# REFEREES_HOME/bin; without it its column is empty.
set -eu
home=${PEERS_HOME:-.peers}
python3 -m venv "$home"
for package in numpy SimpleITK itk-elastix picsl_greedy antspyx; do
    "$home/bin/pip" install --quiet "$package" || echo "$package cannot be had here: its column will be empty" >&2
done
"$home/bin/pip" freeze | grep -iE '^(simpleitk|itk-elastix|picsl_greedy|antspyx)=='
command -v plastimatch || echo "plastimatch is not on PATH" >&2
