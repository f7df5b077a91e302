"""The weights of a model of several speakers from those of a model of one, and back.

The layers that read the encoder's output (READERS) have a column for each of its channels, and, with speakers, D more
for the embedding.

    one -> several      the new columns are 0: at first every speaker is the old voice, exactly
    several -> others   embeddings are copied by name; those of new speakers are new
    several -> one of them, as a model with speakers     `select` keeps one embedding: exact
    one of them -> a model without speakers     what the embedding adds goes into biases. That is exact in the decoder's
                        second LSTM, the projection and the gate, and in the first LSTM from the second step on. The
                        attention's keys have no bias: what it adds to them is lost, so this is a start for training.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from common.checkpoint.checkpoint import Checkpoint
from common.errors import UserError
from common.schema import from_dict
from common.spec import Adapted, Weights
from tacotron2.model import Tacotron2Config
from tacotron2.speaker_names import listed, speaker_id

EMBEDDING = "speaker_embedding.weight"
# Matrix whose last D columns read the embedding: the bias that its product can go into.
READERS = {
    "decoder.attention_rnn.weight_ih": "decoder.attention_rnn.bias_ih",
    "decoder.attention_layer.memory_layer.linear_layer.weight": None,
    "decoder.decoder_rnn.weight_ih": "decoder.decoder_rnn.bias_ih",
    "decoder.linear_projection.linear_layer.weight": "decoder.linear_projection.linear_layer.bias",
    "decoder.gate_layer.linear_layer.weight": "decoder.gate_layer.linear_layer.bias",
}
CHOOSE = (
    "choose one: python scripts/convert_checkpoint.py IN OUT.safetensors --speaker NAME, then init_from=OUT.safetensors"
)


def adapt_speakers(taken: Weights, theirs: Tacotron2Config, own: Weights, ours: Tacotron2Config) -> Adapted:
    """The weights `taken` for a model with the config `ours`, whose weights are `own`.

    Raises UserError if a model without speakers would start from several.
    """
    if theirs.speakers == ours.speakers and (theirs.speaker_dim == ours.speaker_dim or not ours.speakers):
        return Adapted(taken)
    if not ours.speakers and len(theirs.speakers) > 1:
        raise UserError(
            f"init_from: the checkpoint has the speakers {listed(theirs.speakers)}, this corpus names none; {CHOOSE}"
        )
    difference = f"the checkpoint has {_described(theirs)}, this run {_described(ours)}"
    if theirs.speakers and ours.speakers and theirs.speaker_dim == ours.speaker_dim:
        embedding, note = _by_name(taken[EMBEDDING], own[EMBEDDING], theirs.speakers, ours.speakers)
        return Adapted({**taken, EMBEDDING: embedding}, difference, [note])
    notes = []
    if theirs.speakers and not ours.speakers:
        taken = folded(taken, theirs)
        notes = [
            f"the embedding of {theirs.speakers[0]} is now in biases; what it added to the attention's keys is lost"
        ]
    elif theirs.speakers:
        taken = _without_columns(taken, theirs.speaker_dim)
        notes = [f"the embeddings are new: the checkpoint's have {theirs.speaker_dim} channels"]
    if ours.speakers:
        taken = _with_columns(taken, ours.speaker_dim) | {EMBEDDING: own[EMBEDDING]}
        notes = notes or ["the weights of the speakers' embedding are 0: each begins as the checkpoint's voice"]
    return Adapted(taken, difference, notes)


def _described(config: Tacotron2Config) -> str:
    if not config.speakers:
        return "no speakers"
    return f"the speakers {listed(config.speakers)} (model.speaker_dim={config.speaker_dim})"


def _by_name(theirs: Tensor, own: Tensor, their_names: list[str], our_names: list[str]) -> tuple[Tensor, str]:
    """`own` (N, D) with the rows of `theirs` for the speakers that both have, and a note."""
    mixed = own.clone()
    for row, name in enumerate(our_names):
        if name in their_names:
            mixed[row] = theirs[their_names.index(name)].to(own)
    new = [name for name in our_names if name not in their_names]
    copied = [name for name in our_names if name in their_names]
    return mixed, f"{EMBEDDING}: copied by name for {listed(copied) or 'none'}; new for {listed(new) or 'none'}"


def _with_columns(weights: Weights, number: int) -> dict[str, Tensor]:
    """`weights` with `number` columns of 0 behind those of the encoder."""
    return {
        name: torch.cat((tensor, tensor.new_zeros(len(tensor), number)), 1) if name in READERS else tensor
        for name, tensor in weights.items()
    }


def _without_columns(weights: Weights, number: int) -> dict[str, Tensor]:
    return {
        name: tensor[:, :-number] if name in READERS else tensor
        for name, tensor in weights.items()
        if name != EMBEDDING
    }


def folded(weights: Weights, config: Tacotron2Config) -> dict[str, Tensor]:
    """The weights of a model without speakers from those of one with a single speaker. See above for what is lost."""
    embedding, result = weights[EMBEDDING][0], _without_columns(weights, config.speaker_dim)
    for matrix, bias in READERS.items():
        if bias is not None:
            result[bias] = result[bias] + weights[matrix][:, -config.speaker_dim :] @ embedding
    return result


def select(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """The checkpoint of a model with the speaker `name` alone, which speaks as before. Raises UserError.

    What only a training run needs is left out: it belongs to all speakers.
    """
    names = from_dict(Tacotron2Config, checkpoint.model_config).speakers
    row = speaker_id(name, names)
    assert row is not None  # there are speakers, or the name would have been an error

    def alone(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {key: value[[row]] if key == EMBEDDING else value for key, value in weights.items()}

    return Checkpoint(
        checkpoint.model_name,
        checkpoint.model_config | {"speakers": [name]},
        checkpoint.audio,
        checkpoint.text,
        alone(checkpoint.state_dict),
    )
