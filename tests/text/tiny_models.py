"""Tokenizers and text models of every family, real classes at tiny size, seeded."""

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from tests.tiny import TEXT_WIDTH, WINDOW, WORDS, tiny_text_encoder, tiny_tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz,."
SENTENCES = ["a red apple, a cat to the left of the dog", "the blue picture of a zebra."] * 4


def wordpiece() -> PreTrainedTokenizerFast:
    """BERT's: [CLS] text [SEP]."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *LETTERS, *(f"##{x}" for x in LETTERS)]
    ids = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=WINDOW,
    )


def unigram() -> PreTrainedTokenizerFast:
    """T5's: text </s>, in pieces that carry the space before them."""
    space = "\u2581"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(space + word, -1.0) for word in WORDS]
    pieces += [(letter, -4.0) for letter in (space, *LETTERS)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=WINDOW,
    )


def byte_bpe() -> PreTrainedTokenizerFast:
    """GPT-2's: no special token is added, and there is none for padding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        model_max_length=WINDOW,
    )


def clip() -> tuple[CLIPTokenizer, PreTrainedModel]:
    tokenizer = tiny_tokenizer()
    return tokenizer, tiny_text_encoder(tokenizer)


def second_clip() -> tuple[CLIPTokenizer, CLIPTextModelWithProjection]:
    """SDXL's other one: wider, deeper, with a projection."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(5)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=WINDOW,
        projection_dim=24,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer, CLIPTextModelWithProjection(config).eval()


def t5() -> tuple[PreTrainedTokenizerFast, T5EncoderModel]:
    tokenizer = unigram()
    torch.manual_seed(3)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=TEXT_WIDTH, d_kv=8, d_ff=64, num_layers=2, num_heads=4
    )
    return tokenizer, T5EncoderModel(config).eval()


def bert() -> tuple[PreTrainedTokenizerFast, BertModel]:
    tokenizer = wordpiece()
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=WINDOW,
    )
    return tokenizer, BertModel(config).eval()


def gpt2() -> tuple[PreTrainedTokenizerFast, GPT2Model]:
    tokenizer = byte_bpe()
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=WINDOW,
        n_embd=TEXT_WIDTH,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    return tokenizer, GPT2Model(config).eval()


def llama() -> tuple[PreTrainedTokenizerFast, LlamaModel]:
    tokenizer = byte_bpe()
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    return tokenizer, LlamaModel(config).eval()


MODELS = {"clip": clip, "t5": t5, "bert": bert, "gpt2": gpt2, "llama": llama}
