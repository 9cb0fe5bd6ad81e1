"""Opens what an evaluation needs: the artifact, the reference, the text."""

from __future__ import annotations

from pathlib import Path

from tqc.artifact import Manifest
from tqc.artifact.embed import identity
from tqc.errors import SessionError, TqcError
from tqc.eval.forcing import Decoder
from tqc.eval.results import Model
from tqc.eval.texts import prose
from tqc.runtime import Session, load


def open_artifact(path: Path, device: str) -> Session:
    """One sequence of the artifact. Raises TqcError if it cannot be opened or has no cache."""
    session = load(path, device)
    if not isinstance(session, Session):
        raise SessionError("a model without a cache cannot be evaluated", where=str(path))
    return session


def about(path: Path, manifest: Manifest) -> Model:
    """What the results say of an artifact."""
    schemes = list(
        dict.fromkeys(layer.k if layer.k == layer.v else f"k:{layer.k},v:{layer.v}" for layer in manifest.layers)
    )
    return Model(
        name=path.absolute().name.removesuffix(".tqc"),
        digest=identity(manifest),
        schemes=schemes[0] if len(schemes) == 1 else "mixed",
    )


def open_reference(path: Path, device: str, vocab: int) -> tuple[Decoder, Model, int | None]:
    """The reference, what it is, and the longest sequence it takes (None: it does not say).

    `path`: an artifact's directory or an ONNX file. Raises TqcError if it cannot be opened or has another vocabulary.
    """
    if path.is_dir():
        session = load(path, device)
        if not isinstance(session, Session) or session.vocab_size != vocab:
            raise TqcError(
                "the reference is another model",
                where=str(path),
                expected=f"a decoder with {vocab} tokens",
                found=f"{session.vocab_size} tokens" if isinstance(session, Session) else "a model without a cache",
            )
        return session, about(path, session.manifest), session.max_context
    from tqc.eval.onnx_session import OnnxSession
    from tqc.frontend.load import load as read_onnx

    found = Model(name=path.absolute().parent.name, digest=read_onnx(path).sha256(), kind="onnx")
    try:
        return OnnxSession(path), found, None
    except TqcError:
        raise
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise TqcError("onnxruntime cannot run the reference", where=str(path), found=str(error)) from error


def read_text(text: Path | None) -> str:
    """The text of a file, or Python's documentation. Raises TqcError if the file cannot be read."""
    if text is None:
        return prose()
    try:
        return text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TqcError("the text cannot be read", where=str(text), expected="UTF-8", found=str(error)) from error
