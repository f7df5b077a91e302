#!/usr/bin/env bash
# Download LJSpeech 1.1 (2.7 GB, 3.8 GB unpacked), verify and unpack it, and write its filelists.
#
#   bash scripts/prepare_dataset.sh [DIR]      DIR: where the corpus goes; default LJSpeech-1.1
#   bash scripts/prepare_dataset.sh DIR --speakers folders|column     several speakers, see prepare_filelists.py
#
# An interrupted download resumes where it stopped. If DIR already holds a corpus (metadata.csv and wavs/, LJSpeech or
# your own recordings), only the filelists are written. If DIR does not exist and its name is not one for LJSpeech, it is
# taken for a mistyped one. To use a mirror, set LJSPEECH_URL and, if its archive differs, LJSPEECH_SHA256.
set -euo pipefail
usage() { sed -n '2,9s/^# \{0,1\}//p' "$0"; }
case ${1:-} in
    -h | --help) usage; exit ;;
    -*) usage >&2; exit 2 ;;
esac

root=${1:-LJSpeech-1.1}
url=${LJSPEECH_URL:-https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2}
sha256=${LJSPEECH_SHA256:-be1a30453f28eb8dd26af4101ae40cbf2c50413b1bb21936cbcdc6fae3de8aa5}
python=${PYTHON:-python}
fail() { echo "error: $*" >&2; exit 1; }
verified() { [ -f "$1" ] && echo "$sha256  $1" | sha256sum --check --status; }

download() {
    verified "$archive" && { echo "$archive: already here"; return; }
    echo "downloading $url"
    # A complete .part cannot be resumed: the server has no bytes left to send.
    if ! verified "$archive.part"; then
        curl --fail --location --retry 5 --continue-at - --output "$archive.part" "$url" ||
            fail "$url: the download failed; check the address and the network, and rerun this to resume (if it fails at once, remove $archive.part first)"
    fi
    echo "verifying $archive"
    if ! verified "$archive.part"; then
        rm "$archive.part"
        fail "$archive: SHA-256 differs from $sha256; the damaged download was removed, run this again"
    fi
    mv "$archive.part" "$archive"
}

unpack() {
    echo "unpacking into $root"
    rm -rf "$root.part"
    mkdir -p "$root.part"
    tar -xjf "$archive" -C "$root.part" --strip-components=1 --no-same-owner --no-same-permissions ||
        fail "$archive could not be unpacked; is the disk full?"
    # Links could lead out of the corpus, to files that later commands would read or overwrite.
    others=$(find "$root.part" ! -type d ! -type f -o -type f -links +1)
    if [ -n "$others" ]; then
        rm -rf "$root.part"
        first=${others%%$'\n'*}
        fail "$archive holds links or devices (${first#"$root.part/"}), which a corpus does not need; use another archive"
    fi
    chmod -R u+rwX,go-w,a-s "$root.part"
    if [ -d "$root" ]; then rmdir "$root"; fi
    mv "$root.part" "$root" # in one step, so that an interruption leaves no partial corpus
    echo "$archive is no longer needed; remove it to free 2.7 GB"
}

"$python" -c "import hydra" 2>/dev/null ||
    fail "$python does not have this project's packages; run: make install, then: source .venv/bin/activate"
root=$("$python" -c "import os, sys; print(os.path.normpath(sys.argv[1]))" "$root") # without ./ and / at its end
archive=$root.tar.bz2
if [ -f "$root/metadata.csv" ] && [ -d "$root/wavs" ]; then
    echo "$root already holds a corpus: only its filelists are written"
elif [ -e "$root" ] && [ -n "$(ls -A "$root")" ]; then
    fail "$root is not empty and holds no corpus: add metadata.csv and wavs/, or name another directory"
elif [ ! -e "$root" ] && [[ ${root,,} != *ljspeech* ]]; then
    fail "there is no directory $root. For your own recordings, correct the name; to download LJSpeech (2.7 GB) into it, run first: mkdir -p $root"
elif [ "$root" -ef . ]; then
    fail "the current directory holds no corpus, and LJSpeech cannot be unpacked into it: name another directory"
else
    for tool in curl sha256sum tar bzip2; do
        command -v $tool >/dev/null || fail "$tool is needed to fetch LJSpeech; install it with your package manager"
    done
    mkdir -p "$(dirname "$root")"
    download
    unpack
fi
"$python" "$(dirname "$0")/prepare_filelists.py" "$root" "${@:2}"
