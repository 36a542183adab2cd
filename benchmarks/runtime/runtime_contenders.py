"""Runtimes to compare with a student on the same audio: torch, transformers, sherpa-onnx, PocketSphinx."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from lalia.units import SAMPLE_RATE

Transcribe = Callable[[np.ndarray], str]


def student(folder: str, threads: int) -> Transcribe:
    from lalia import Student

    loaded = Student.load(folder, threads=threads)
    return lambda wave: loaded.transcribe(wave).text


def torch_recogniser(folder: str, threads: int, int8: bool) -> Transcribe:
    """The student's source recogniser in torch; with ``int8`` its linear layers are dynamically quantized."""
    import soundfile as _  # noqa: F401  # before fairseq2
    import torch

    from lalia.decoding.greedy import greedy, transcript
    from lalia.models.recogniser import Recogniser
    from lalia.runtime.student import SHORTEST

    torch.set_num_threads(threads)
    recogniser = Recogniser.load(Path(folder)).eval()
    model: torch.nn.Module = recogniser
    if int8:
        from lalia.models.export.deployed import Deployed, Product

        def linear(product: Product) -> torch.nn.Linear:
            inputs, outputs = product.weight_IO.shape
            made = torch.nn.Linear(inputs, outputs, bias=product.bias_O is not None)
            made.weight.data = product.weight_IO.T.contiguous()
            if product.bias_O is not None:
                made.bias.data = product.bias_O.data
            return made

        def replace(module: torch.nn.Module) -> None:
            for name, child in module.named_children():
                if isinstance(child, Product):
                    setattr(module, name, linear(child))
                else:
                    replace(child)

        model = Deployed(recogniser)
        replace(model)
        # torch's own quantization needs its linear layers; the deployed form is the student's graph in torch.
        model = torch.ao.quantization.quantize_dynamic(model.eval(), {torch.nn.Linear}, dtype=torch.qint8)

    @torch.inference_mode()
    def transcribe(wave: np.ndarray) -> str:
        wave_BS = torch.from_numpy(np.pad(wave, (0, max(0, SHORTEST - len(wave)))))[None]
        if int8:
            [log_probs_BTV] = model(wave_BS)
        else:
            log_probs_BTV, _ = recogniser.log_probs(wave_BS, torch.tensor([wave_BS.shape[1]]))
        return transcript(greedy(log_probs_BTV[0].numpy()), recogniser.tokens)

    return transcribe


def in_transformers(folder: str, threads: int) -> Transcribe:
    """The result of ``lalia convert RECOGNISER hf:FOLDER``, in transformers."""
    import torch
    from transformers import AutoModelForCTC, AutoProcessor

    torch.set_num_threads(threads)
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForCTC.from_pretrained(folder).eval()

    @torch.inference_mode()
    def transcribe(wave: np.ndarray) -> str:
        given = processor(wave, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        return str(processor.batch_decode(model(**given).logits.argmax(-1))[0])

    return transcribe


def sherpa(folder: str, threads: int) -> Transcribe:
    """The result of ``lalia convert STUDENT sherpa:FOLDER``, in sherpa-onnx."""
    import sherpa_onnx

    recogniser = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(
        f"{folder}/model.onnx", f"{folder}/tokens.txt", num_threads=threads
    )

    def transcribe(wave: np.ndarray) -> str:
        stream = recogniser.create_stream()
        stream.accept_waveform(SAMPLE_RATE, wave)
        recogniser.decode_stream(stream)
        return str(stream.result.text)

    return transcribe


def pocketsphinx(_: str, threads: int) -> Transcribe:
    """PocketSphinx with the English model of its package: for speed and memory, not for error rates in other languages."""
    from pocketsphinx import Decoder

    decoder = Decoder(loglevel="FATAL")

    def transcribe(wave: np.ndarray) -> str:
        decoder.start_utt()
        decoder.process_raw((wave * 32767).astype(np.int16).tobytes(), no_search=False, full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        return found.hypstr if found else ""

    return transcribe


CONTENDERS: dict[str, tuple[str, Callable[[str, int], Transcribe]]] = {
    # name: (kind of folder, loader)
    "lalia, int8": ("student", student),
    "sherpa-onnx, the same int8 file": ("sherpa", sherpa),
    "torch, float": ("recogniser", lambda folder, threads: torch_recogniser(folder, threads, False)),
    "torch, dynamic int8": ("recogniser", lambda folder, threads: torch_recogniser(folder, threads, True)),
    "transformers, float": ("hf", in_transformers),
    "PocketSphinx, English": ("", pocketsphinx),
}
