#!/usr/bin/env bash
# Synthesize with the bundled voice; then run the whole pipeline on its corpus: mels, a short training of both models,
# synthesis. Called by `make demo`.
set -euo pipefail
cd "$(dirname "$0")/.."

corpus=demo/corpus
runs=runs/demo
bin=$(dirname "$(command -v python)")
if [ -d "$runs" ]; then
    echo "$runs is left from an earlier demo: training continues from its checkpoints."
fi

cat <<TEXT
This demo takes about 7 minutes on 2 CPU cores. It will
  1. synthesize filelists/demo_phrases.txt with the voice in demo/voice    seconds
  2. compute the mels of the bundled corpus (27 min of that voice)        seconds
  3. train a small Tacotron 2 on them (text to mel)                        4 minutes
  4. train a small WaveGlow on them (mel to audio)                         2 minutes
  5. synthesize the same sentences with both                               1 minute
The voice of step 1 was trained with the commands of steps 3 and 4, but for hours, and in the end on 8 hours of speech.
Minutes do not make a voice; hear how far they get.
Every command is shown; a full training uses the same ones.

TEXT

show() {
    echo
    echo "\$ $*"
    "$@"
}

# With this voice, WaveGlow sounds more natural than Griffin-Lim (measured in demo/voice/README.md).
show python inference.py voice=demo/voice input=filelists/demo_phrases.txt output=$runs/voice overwrite=true
echo
echo "Listen to $runs/voice/0000.wav, made by WaveGlow, which sounds more natural here than Griffin-Lim."

show bash scripts/prepare_dataset.sh $corpus
show bash scripts/prepare_mels.sh $corpus
show python train.py experiment=demo model=tacotron2_small run_dir=$runs/tacotron2 trainer.max_minutes=4
show python train.py experiment=demo model=waveglow_small run_dir=$runs/waveglow trainer.max_minutes=2
# After minutes of training the voice cannot read yet, so the exit status is 3. It does not stop by itself either: 215
# steps limit it to 5 seconds.
show python inference.py tacotron2=$runs/tacotron2 waveglow=$runs/waveglow input=filelists/demo_phrases.txt \
    output=$runs/speech max_decoder_steps=215 attempts=1 overwrite=true || [ $? -eq 3 ]
show python inference.py tacotron2=$runs/tacotron2 vocoder=griffin_lim input=filelists/demo_phrases.txt \
    output=$runs/speech_griffin_lim max_decoder_steps=215 attempts=1 overwrite=true || [ $? -eq 3 ]

cat <<TEXT

Done. Listen to and look at
  $runs/voice/0000.wav                 the voice in demo/voice, trained for hours
  $runs/speech_griffin_lim/0000.wav    Tacotron 2's mel through Griffin-Lim, which needs no training
  $runs/speech/0000.wav                the same through WaveGlow
  $runs/speech/0000.png                the alignment: a diagonal means that Tacotron 2 reads the text in order
  $runs/tacotron2/samples/             alignments, mels and audio during training
  $runs/speech/log.jsonl               items/s, latency and RTF of every phrase
Curves: $bin/tensorboard --logdir $runs

A full training, on LJSpeech and a GPU (first: source $bin/activate):
  bash scripts/prepare_dataset.sh LJSpeech-1.1
  bash scripts/prepare_mels.sh LJSpeech-1.1
  torchrun --nproc-per-node gpu train.py model=tacotron2 data=ljspeech data.root=LJSpeech-1.1 run_dir=runs/tacotron2
  torchrun --nproc-per-node gpu train.py model=waveglow data=ljspeech data.root=LJSpeech-1.1 run_dir=runs/waveglow
  python inference.py tacotron2=runs/tacotron2 waveglow=runs/waveglow input=phrases.txt output=speech
TEXT
