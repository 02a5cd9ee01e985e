"""The student's internal states I_i, taken by hooks: masked means of encoder and decoder layers, and late interactions.

Layer -1 is what the encoder hands to the decoder, and what the decoder hands to the output projection;
0, 1, ... are the outputs of ``encoder.layers[k]`` and ``decoder.layers[k]``. So any encoder-decoder of
fairseq will do.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta import reweighters
from fairseq_l2rw.meta.functional import evaluating
from fairseq_l2rw.translation.late_interaction import late_interactions, output_embedding

#: names under which fairseq's decoders keep their output projection
PROJECTIONS = ("output_projection", "fc_out", "fc3")
LAST = -1
PARTS = ("encoder", "decoder")
#: how source and target meet: token by token (:mod:`fairseq_l2rw.translation.late_interaction`), or in their means alone
INTERACTIONS = TOKENS, MEANS = ("tokens", "means")


def parse_layers(text: str) -> tuple[int, ...]:
    """``-1`` or ``0,2,-1``."""
    try:
        layers = tuple(dict.fromkeys(int(part) for part in str(text).split(",")))
    except ValueError:
        layers = ()
    if not layers or min(layers) < LAST:
        raise L2RWError(f"--teacher-layers {text}: give layer numbers from 0, or -1 for the last, comma-separated")
    return layers


def parse_inputs(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """``--teacher-inputs``: what the teacher sees, and of which parts the internal states are.

    ``internal``, ``surface`` or ``both``; ``encoder`` or ``decoder`` stands for a part of ``internal``.
    """
    names = [name.strip() for name in text.split(",")]
    parts = tuple(part for part in PARTS if part in names)
    try:
        return reweighters.parse_inputs(",".join(dict.fromkeys("internal" if n in PARTS else n for n in names))), parts or PARTS
    except L2RWError:
        raise L2RWError(
            f"--teacher-inputs {text}: give internal, surface or both; encoder or decoder stands for a part of internal"
        ) from None


class Capture:
    """Hooks on one encoder-decoder.

    Args:
        model: the student.
        layers: which layers to take.
        padding: index of the padding symbol.
        parts: ``encoder`` and ``decoder``, or one of them.
        interactions: ``tokens`` or ``means``; with one part alone there is nothing to interact. Students whose encoder states
            and output embeddings differ in width have none either.

    Raises:
        L2RWError: the student has no encoder and decoder, or not that layer.
    """

    def __init__(
        self, model: nn.Module, layers: tuple[int, ...], padding: int, parts: tuple[str, ...] = PARTS, interactions: str = MEANS
    ):
        for part in PARTS:
            if not isinstance(getattr(model, part, None), nn.Module):
                raise L2RWError(
                    f"--arch: {type(model).__name__} has no {part}; l2rw_translation trains encoder-decoder models, "
                    "for example --arch transformer"
                )
        self.model, self.layers, self.padding, self.parts = model, layers, padding, parts
        for layer in layers:
            for part in PARTS:
                self._check(part, layer)
        both = set(parts) == set(PARTS)
        self.embedding = output_embedding(model.decoder, self._projection()) if both and interactions == TOKENS else None

    def _projection(self) -> nn.Module | None:
        decoder = self.model.decoder
        return next((p for name in PROJECTIONS if isinstance(p := getattr(decoder, name, None), nn.Module)), None)

    @classmethod
    def of(cls, model: nn.Module, cfg, padding: int) -> Capture:
        """What the options of the task ask for."""
        parts = parse_inputs(cfg.teacher_inputs)[1]
        return cls(model, parse_layers(cfg.teacher_layers), padding, parts, cfg.teacher_interactions)

    def _check(self, part, layer):
        stack = getattr(getattr(self.model, part), "layers", None)
        if layer != LAST and (stack is None or layer >= len(stack)):
            has = "has no numbered layers" if stack is None else f"has layers 0 to {len(stack) - 1}"
            raise L2RWError(f"--teacher-layers {layer}: the student's {part} {has}")

    @contextmanager
    def states(self):
        """Inside, one forward pass of the model is watched; gives a :class:`States`."""
        watched = States(self.padding, self.parts, self.embedding)
        encoder, decoder = self.model.encoder, self.model.decoder
        handles, shadowed = [], False
        try:
            if self.embedding is not None:
                handles.append(encoder.register_forward_hook(watched.saw_output))
                for layer in getattr(decoder, "layers", None) or []:  # all: layer drop may leave the last out
                    if isinstance(attention := getattr(layer, "encoder_attn", None), nn.Module):
                        handles.append(attention.register_forward_hook(watched.saw_attention))
            for layer in self.layers:
                if layer == LAST:
                    handles.append(encoder.register_forward_hook(watched.saw_encoder))
                    projection = self._projection()
                    if projection is not None:
                        handles.append(projection.register_forward_pre_hook(watched.saw_projection))
                    else:  # tied output embeddings without a module of their own
                        watched.shadow(decoder)
                        shadowed = True
                else:
                    handles.append(encoder.layers[layer].register_forward_hook(watched.saw_encoder_layer))
                    handles.append(decoder.layers[layer].register_forward_hook(watched.saw_decoder_layer))
            yield watched
        finally:
            for handle in handles:
                handle.remove()
            if shadowed:
                del decoder.extract_features

    def widths(self, source_length: int = 2) -> tuple[int, ...]:
        """Widths of the blocks of states, found by running one empty sentence through the model."""
        device = next(self.model.parameters()).device
        tokens = torch.full((1, source_length), self.model.encoder.dictionary.eos(), device=device)
        lengths = torch.tensor([source_length], device=device)
        with torch.no_grad(), evaluating(self.model), self.states() as states:
            self.model(src_tokens=tokens, src_lengths=lengths, prev_output_tokens=tokens)
        return tuple(block.shape[1] for block in states.internal(tokens, tokens))


class States:
    """What the hooks saw in one forward pass."""

    def __init__(self, padding: int, parts: tuple[str, ...] = PARTS, embedding: Tensor | None = None):
        self.padding, self.parts, self.embedding = padding, parts, embedding
        self.encoder: list[tuple[Tensor, Tensor | None]] = []
        self.decoder: list[Tensor] = []
        self.output: tuple[Tensor, Tensor | None] | None = None
        self.attended: Tensor | None = None

    def saw_encoder(self, module, inputs, output):
        self.encoder.append(_encoder_output(output))

    def saw_output(self, module, inputs, output):
        self.output = _encoder_output(output)

    def saw_attention(self, module, inputs, output):
        self.attended = _first(output).transpose(0, 1)

    def saw_encoder_layer(self, module, inputs, output):
        self.encoder.append((_first(output).transpose(0, 1), None))

    def saw_projection(self, module, inputs):
        self.decoder.append(inputs[0])

    def saw_decoder_layer(self, module, inputs, output):
        self.decoder.append(_first(output).transpose(0, 1))

    def shadow(self, decoder):
        extract = decoder.extract_features

        def watched(*args, **kwargs):
            output = extract(*args, **kwargs)
            self.decoder.append(_first(output))
            return output

        decoder.extract_features = watched

    def means(self, source: Tensor, target: Tensor) -> list[Tensor]:
        """Means over the tokens of each sentence, padding excluded, detached: encoder blocks, then decoder blocks.

        Args:
            source: source tokens ``[B, S]``.
            target: target tokens ``[B, T]``.

        Returns:
            One ``[B, H]`` for each layer watched.
        """
        blocks = []
        for states, mask in self.encoder if "encoder" in self.parts else []:
            padded = source.eq(self.padding) if mask is None else mask
            blocks.append(_masked_mean(states.detach(), padded))
        for states in self.decoder if "decoder" in self.parts else []:
            blocks.append(_masked_mean(states.detach(), target.eq(self.padding)))
        return blocks

    def internal(self, source: Tensor, target: Tensor) -> list[Tensor]:
        """I_i: :meth:`means`, and as one block more, where both parts are watched, the late interactions ``[B, 3]``."""
        blocks = self.means(source, target)
        if self.embedding is not None and self.output is not None and self.output[0].shape[2] == self.embedding.shape[1]:
            encoder, mask = self.output
            attended = self.attended
            if attended is not None and attended.shape[2] != self.embedding.shape[1]:
                attended = None
            padded = source.eq(self.padding) if mask is None else mask
            padded_target = target.eq(self.padding)
            blocks.append(late_interactions(encoder, padded, attended, self.embedding, target, padded_target))
        return blocks


def _encoder_output(output) -> tuple[Tensor, Tensor | None]:
    """States ``[B, S, H]`` of an encoder's output, and its padding mask ``[B, S]`` if it has one."""
    if isinstance(output, dict):
        states, mask = output["encoder_out"], output.get("encoder_padding_mask")
        mask = mask[0] if isinstance(mask, (list, tuple)) and len(mask) else mask
        mask = mask if isinstance(mask, Tensor) else None
        if isinstance(states, tuple):  # fconv: [B, T, C] twice
            return states[0], mask
        return states[0].transpose(0, 1), mask  # transformer: [T, B, C], mask [B, T]
    mask = output[3] if len(output) > 3 else None  # lstm: [T, B, C], ..., mask [T, B]
    return output[0].transpose(0, 1), None if mask is None else mask.t()


def _masked_mean(states: Tensor, padded: Tensor) -> Tensor:
    # filled, not multiplied by 0: in half precision a padded position may have overflowed
    total = states.float().masked_fill(padded.unsqueeze(2), 0.0).sum(1)  # [B, H]
    return total / (~padded).sum(1, keepdim=True).clamp(min=1)


def _first(output):
    return output[0] if isinstance(output, (tuple, list)) else output
