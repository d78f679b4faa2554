"""The playground: its HTTP API, its limits, and what a request may reach."""

import argparse
import base64
import inspect
import io
import json
import math
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Optional

import gradio as gr
import httpx
import pytest
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image, ImageFile
from torchvision.transforms.v2.functional import pil_to_tensor

import export
from cli.options import is_tensor, sample_parameters
from cli.playground import api, html, options, program
from cli.playground.canvas import MAX_SIDE, PNG, canvas_value, read_canvas
from cli.playground.form import (
    COUNT,
    FIRST_SEED,
    MAX_TEXT,
    Form,
    field,
    is_supported,
    options_of,
    parser_of,
    text_value,
)
from cli.playground.library import MAX_LOADED, Library
from cli.playground.worker import MAX_WAITING, Show, Worker
from common.errors import UserError
from common.files import ROOT
from common.images import grid
from lightning_modules import load
from lightning_modules.core.module import GenerativeModule
from lightning_modules.core.seeding import seeded_normal, truncated
from tests.test_contracts import class_of
from tests.test_exports import trained

SYSTEMS = sorted(
    path.stem for path in (ROOT / "lightning_modules").glob("[a-z]*.py") if path.stem != "toy_mean"
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of two runs: `vae/run` and `gpt/run`."""
    folder = tmp_path_factory.mktemp("runs")
    for system in ("vae", "gpt"):
        trained(folder / system, system)
    return folder


@pytest.fixture(scope="module")
def server(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a playground with the runs."""
    os.environ["GRADIO_TEMP_DIR"] = str(tmp_path_factory.mktemp("temporary"))
    page, address = program.start(options.parse([str(runs)]))
    yield address
    page.close()
    del os.environ["GRADIO_TEMP_DIR"]


@pytest.fixture(scope="module")
def client(server: str) -> Client:
    """Client of the HTTP API."""
    return Client(server, verbose=False)


# HTTP API


def test_the_page_and_its_names_are_served(server: str, client: Client) -> None:
    assert "Maquette" in httpx.get(server).text
    assert sorted(client.predict(api_name="/checkpoints")) == ["gpt/run: last", "vae/run: last"]


def test_images_are_those_of_the_system(client: Client, runs: Path) -> None:
    """The image of a seed has the same pixels as in `sample`."""
    urls = client.predict("vae/run: last", [3, 4], {"temperature": 0.5}, api_name="/sample")
    expected = load(runs / "vae/run/checkpoints/last.ckpt").sample([3, 4], temperature=0.5)
    for url, image in zip(urls, expected, strict=True):
        content = base64.b64decode(url.removeprefix(PNG))
        pixels = pil_to_tensor(Image.open(io.BytesIO(content)).convert("RGB"))
        assert torch.equal(pixels, grid(image[None]))


def test_a_list_has_one_value_per_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the seeds are sampled in several parts."""
    seen: list[tuple[list[int], list[str]]] = []

    def samples(loaded: Any, values: dict[str, Any], seeds: list[int]) -> list[str]:
        seen.append((seeds, values["prompt"]))
        return ["text"] * len(seeds)

    def sample(seeds: list[int], *, prompt: list[str] = []) -> list[str]:  # noqa: B006
        return []

    monkeypatch.setattr(api, "samples", samples)
    registered: dict[str, Any] = {}
    monkeypatch.setattr(api.gr, "api", lambda call, api_name: registered.update({api_name: call}))
    loaded = SimpleNamespace(model=SimpleNamespace(sample=sample))
    backend = SimpleNamespace(
        library=SimpleNamespace(load=lambda name: loaded), worker=SimpleNamespace(call=lambda f: f)
    )
    api.add_api(backend)  # type: ignore[arg-type]
    prompts = [f"prompt {seed}" for seed in range(20)]
    registered["sample"]("run", list(range(20)), {"prompt": prompts})
    assert [len(seeds) for seeds, _ in seen] == [16, 4]
    assert [prompt for _, part in seen for prompt in part] == prompts


def test_texts_are_those_of_the_system(client: Client, runs: Path) -> None:
    given = {"prompt": "The ", "max_new_tokens": 5, "temperature": 0.8}
    (text,) = client.predict("gpt/run: last", [1], given, api_name="/sample")
    assert [text] == load(runs / "gpt/run/checkpoints/last.ckpt").sample([1], **given)


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (("../../etc/passwd", [0], {}), "no such checkpoint"),
        (("vae/run: ../../../gpt/run/checkpoints/last", [0], {}), "no such checkpoint"),
        (("vae/run: last", list(range(100)), {}), "1 to 64"),
        (("vae/run: last", [-1], {}), "seed must be from 0"),
        (("vae/run: last", [0], {"steps": 10**9}), "steps must be at most 250"),
        (("vae/run: last", [0], {"mode": "walk"}), "mode must be one of prior"),
        (("vae/run: last", [0], {"batch": 1}), "'batch': there is no such option"),
        (("gpt/run: last", [0], {"prompt": "x" * 1_000_000}), "1,000,000 characters"),
        (("gpt/run: last", [0], {"temperature": "hot"}), "temperature must be"),
    ],
)
def test_a_refused_request_has_a_sentence(
    client: Client, request_: tuple[Any, ...], named: str
) -> None:
    with pytest.raises(AppError, match=named):
        client.predict(*request_, api_name="/sample")
    assert client.predict(api_name="/checkpoints")  # the server still answers


def test_files_of_the_machine_are_not_served(server: str, runs: Path) -> None:
    for path in ("/etc/passwd", runs / "vae/run/config.yaml", "../../etc/passwd"):
        assert httpx.get(f"{server}gradio_api/file={path}").status_code in (403, 404)


def test_large_uploads_are_refused(server: str) -> None:
    files = {"files": ("large.png", b"x" * 5_000_000)}
    assert httpx.post(f"{server}gradio_api/upload", files=files).status_code == 413


def test_nothing_is_written_beside_the_temporary_folder(server: str, runs: Path) -> None:
    """Neither in the working directory nor in the runs."""
    before = {path for place in (ROOT, runs) for path in place.glob("*")}
    client = Client(server, verbose=False)
    client.predict("vae/run: last", [0], {}, api_name="/sample")
    assert {path for place in (ROOT, runs) for path in place.glob("*")} == before
    assert not (ROOT / ".gradio").exists()


# Checkpoints


def test_a_checkpoint_with_code_is_refused(tmp_path: Path) -> None:
    """Reading a pickle that would run a command is refused with a sentence, and runs nothing."""

    class Command:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    path = tmp_path / "bad.ckpt"
    torch.save({"class_path": Command()}, path)
    library = Library([str(path)], "cpu")
    with pytest.raises(gr.Error, match="refused, since reading it would run code"):
        Worker().call(library.load)(str(path))
    assert not (tmp_path / "ran").exists()


def test_exports_are_offered_and_old_systems_are_released(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "export"
    checkpoint = runs / "gpt/run/checkpoints/last.ckpt"
    assert export.main([str(checkpoint), "--out", str(out)]) == 0
    copies = [str(out)]
    for number in range(MAX_LOADED):
        copies.append(str(tmp_path / f"{number}.ckpt"))
        Path(copies[-1]).write_bytes(checkpoint.read_bytes())
    library = Library(copies, "cpu")
    first = library.load(str(out)).model
    assert first.sample([0], max_new_tokens=3) == load(checkpoint).sample([0], max_new_tokens=3)
    assert library.load(str(out)).model is first
    for path in copies[1:]:
        library.load(path)
    assert library.load(str(out)).model is not first
    assert library.rankers([3, 16, 16]) == []  # none of them scores captions


def test_no_run_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        Library([str(tmp_path)], "cpu")
    with pytest.raises(UserError, match="there is no such folder or checkpoint"):
        Library([str(tmp_path / "missing")], "cpu")


# Forms


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_option_has_a_field_with_its_default(system: str) -> None:
    """The value that an untouched field sends is the default of `sample`."""
    for cls in class_of_file(system):
        for name, parameter in sample_parameters(cls.sample).items():
            if name == "self" or is_tensor(parameter):  # images have a canvas
                continue
            component, parse = field(parameter, "")
            assert parse(component.value) == parameter.default


def class_of_file(system: str) -> list[type[GenerativeModule]]:
    """The systems of a file of `lightning_modules/`."""
    module = __import__(f"lightning_modules.{system}", fromlist=["*"])
    return [
        one
        for one in vars(module).values()
        if isinstance(one, type)
        and issubclass(one, GenerativeModule)
        and one.__module__ == module.__name__
    ]


def test_values_out_of_range_are_named() -> None:
    gpt = sample_parameters(class_of("lightning_modules.gpt.GPT").sample)
    for name, value, reason in (
        ("top_p", 1.5, "top_p must be"),
        ("top_k", 0.5, "top_k must be an integer"),
        ("temperature", math.inf, "temperature must be"),
        ("max_new_tokens", 10_000, "max_new_tokens must be at most 1,000"),
    ):
        with pytest.raises(UserError, match=reason):
            parser_of(gpt[name])(value)
    with pytest.raises(UserError, match="2,001 characters"):
        text_value("prompt")("x" * (MAX_TEXT + 1))


def test_values_reach_their_fields_in_order() -> None:
    form = Form()
    with gr.Blocks():
        form.add_seeds(4)
        form.add("text", gr.Textbox(), text_value("text"))
    assert form.parse([1, 2, "word"]) == {FIRST_SEED: 1, COUNT: 2, "text": "word"}


# Images


def picture_url(size: tuple[int, int], mode: str = "RGB") -> str:
    """An image of one colour as a data URL."""
    file = io.BytesIO()
    Image.new(mode, size).save(file, "png")
    return PNG + base64.b64encode(file.getvalue()).decode()


def test_the_canvas_keeps_images() -> None:
    """An image that is shown on the canvas is read back with the same values."""
    image = torch.rand(3, 16, 16).mul(255).round().div(127.5).sub(1)
    read, mask = read_canvas(canvas_value(image), [3, 16, 16])
    assert mask is None
    assert torch.allclose(read, image, atol=1e-6)


def test_marked_pixels_become_the_mask() -> None:
    marks = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    marks.paste((234, 88, 12, 255), (0, 0, 32, 16))  # the upper half
    file = io.BytesIO()
    marks.save(file, "png")
    mask = PNG + base64.b64encode(file.getvalue()).decode()
    value = json.dumps({"image": picture_url((32, 32)), "mask": mask})
    image, marked = read_canvas(value, [3, 8, 8])
    assert image is not None
    assert marked is not None
    assert marked[0, :3].eq(1).all()
    assert marked[0, 5:].eq(0).all()
    assert read_canvas("", [3, 8, 8]) == (None, None)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("[1]", "no image and mask"),
        ("not JSON", "no image and mask"),
        ("x" * 5_000_000, "2,000,000 characters"),
        (json.dumps({"image": "file:///etc/passwd", "mask": ""}), "not a PNG image"),
        (json.dumps({"image": PNG + "AAAA", "mask": ""}), "cannot be read as PNG"),
        (json.dumps({"image": PNG + "?", "mask": ""}), "cannot be read as PNG"),
    ],
)
def test_a_bad_canvas_is_refused(value: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        read_canvas(value, [3, 16, 16])


def test_an_image_of_100_megapixels_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    value = json.dumps({"image": picture_url((10_000, 10_000), "1"), "mask": ""})
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(UserError, match=f"10000x10000 pixels; at most {MAX_SIDE}"):
        read_canvas(value, [3, 16, 16])


# Answers


def test_the_newest_answer_is_shown_and_the_last_one_always() -> None:
    def slow(show: Show, count: int) -> None:
        for number in range(count):
            show(str(number))

    shown = list(Worker().stream(slow)(100))
    assert shown[-1] == "99"
    assert [int(one) for one in shown] == sorted(int(one) for one in shown)


def test_an_abandoned_answer_ends() -> None:
    """The thread is free again soon after the page was closed."""
    worker, steps = Worker(), []

    def endless(show: Show) -> None:
        while True:
            steps.append(1)
            show("more")
            time.sleep(0.001)

    answer = worker.stream(endless)()
    assert next(answer) == "more"
    answer.close()  # type: ignore[attr-defined]  # as Gradio does with that of a closed page
    assert worker.call(lambda: "free")() == "free"
    done = len(steps)
    time.sleep(0.05)
    assert len(steps) == done


def test_a_page_can_be_closed_before_the_first_result() -> None:
    """Gradio can end a generator only between two of its values, so it yields while it waits."""
    worker, go = Worker(), threading.Event()

    def late(show: Show) -> None:
        go.wait(10)
        show("late")

    answer = worker.stream(late)()
    assert next(answer) == gr.skip()
    answer.close()  # type: ignore[attr-defined]
    go.set()
    assert worker.call(lambda: "free")() == "free"


def test_a_crowd_is_refused_with_a_sentence() -> None:
    worker, go = Worker(), threading.Event()
    with ThreadPoolExecutor(MAX_WAITING) as pool:
        waiting = [pool.submit(worker.call(go.wait), 10) for _ in range(MAX_WAITING)]
        while worker._free._value:  # type: ignore[attr-defined]
            time.sleep(0.01)
        with pytest.raises(gr.Error, match="32 requests are waiting"):
            worker.call(len)("")
        with pytest.raises(gr.Error, match="32 requests are waiting"):
            next(worker.stream(len)())  # type: ignore[arg-type]
        go.set()
    assert all(one.result() for one in waiting)
    assert worker.call(len)("") == 0


@pytest.mark.parametrize(
    ("annotation", "default"),
    [
        (Literal["x", "y"] | None, None),
        (Optional[int], None),  # noqa: UP045  # a user's file may have it
        (float, -1.0),
        (int, 2000),
        (list[str], ["a", "b"]),
        (bool, True),
    ],
)
def test_options_of_a_users_system_have_fields(
    annotation: Any, default: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameter = inspect.Parameter(
        "mine", inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )
    assert is_supported(parameter)
    component, parse = field(parameter, "")
    assert parse(component.value) == default

    def sample(seeds: list[int], **options: Any) -> None: ...

    signature = inspect.Signature([parameter])
    monkeypatch.setattr("cli.playground.form.sample_parameters", lambda _: signature.parameters)
    model = SimpleNamespace(sample=sample)
    assert options_of(model, {"mine": default}) == {"mine": default}
    assert getattr(component, "minimum", None) in (None, -2.0)
    other = parameter.replace(annotation=tuple[int, int])
    assert not is_supported(other)  # left out of the form


def test_runs_of_two_folders_with_equal_names_are_all_offered(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "gpt", tmp_path / "gpt")
    library = Library([str(runs), str(tmp_path)], "cpu")
    assert set(library.runs()) == {"vae/run", "gpt/run", (tmp_path / "gpt/run").as_posix()}
    (tmp_path / "gpt/run/state.json").write_text("", encoding="utf-8")  # damaged
    assert set(library.runs()) == {"vae/run", "gpt/run"}


def test_an_unexpected_error_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(show: Show) -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(gr.Error, match="RuntimeError: out of memory"):
        list(Worker().stream(broken)())
    assert "error: RuntimeError: out of memory" in capsys.readouterr().err


def test_outputs_are_escaped() -> None:
    """A generated text cannot add elements to the page."""
    evil = "<script>alert(1)</script>"
    parts = [
        html.texts([evil], [evil]),
        html.generated_token(evil, [(evil, 0.5)]),
        html.scored_tokens([(evil, 1.0)], evil, 1.0),
        html.paragraph(evil),
        html.columns([(evil, "")]),
    ]
    assert "<script" not in "".join(parts)


def test_options_of_the_command_line() -> None:
    assert options.parse([]) == argparse.Namespace(
        sources=["runs"], host="127.0.0.1", port=None, device="cpu", data=None, open=False
    )


# Truncated noise


def test_truncated_noise_has_the_truncated_normal_distribution() -> None:
    """Its variance is 1 - 2 phi(1) / (2 Phi(1) - 1) = 0.2911 for a limit of 1."""
    noise = seeded_normal(list(range(2000)), (50,))
    small = truncated(noise, 1.0)
    assert small.abs().max() <= 1
    assert small.var().item() == pytest.approx(0.2911, abs=0.005)
    assert (truncated(noise.flatten().sort().values, 1.0).diff() >= 0).all()  # keeps the order
    assert truncated(noise, 0.0) is noise
    assert torch.allclose(truncated(noise, 8.0), noise, atol=1e-4)
