#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""model.py FILE: a model of llama's architecture with random weights, the same each time: 4 layers of 256, 512 tokens that
stand for no text."""
import sys

import gguf
import numpy

WIDTH, INNER, LAYERS, HEADS, TOKENS = 256, 688, 4, 8, 512
dice = numpy.random.default_rng(15)
writer = gguf.GGUFWriter(sys.argv[1], "llama")
writer.add_context_length(512)
writer.add_embedding_length(WIDTH)
writer.add_block_count(LAYERS)
writer.add_feed_forward_length(INNER)
writer.add_head_count(HEADS)
writer.add_head_count_kv(HEADS)
writer.add_rope_dimension_count(WIDTH // HEADS)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_vocab_size(TOKENS)
writer.add_tokenizer_model("no_vocab")


def random(name, *shape):
    """Wide enough for tokens that differ, so that another order of sums does not choose another."""
    writer.add_tensor(name, dice.standard_normal(shape, numpy.float32) * numpy.float32(2 / shape[-1] ** 0.5))


def ones(name):
    writer.add_tensor(name, numpy.ones(WIDTH, numpy.float32))


random("token_embd.weight", TOKENS, WIDTH)
ones("output_norm.weight")
random("output.weight", TOKENS, WIDTH)
for layer in range(LAYERS):
    for norm in ("attn_norm", "ffn_norm"):
        ones(f"blk.{layer}.{norm}.weight")
    for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
        random(f"blk.{layer}.{part}.weight", WIDTH, WIDTH)
    for part in ("ffn_gate", "ffn_up"):
        random(f"blk.{layer}.{part}.weight", INNER, WIDTH)
    random(f"blk.{layer}.ffn_down.weight", WIDTH, INNER)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
