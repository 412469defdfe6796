"""The model card can be read by the Hugging Face Hub and by people, with any names, scores and files."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ganctl.exports import manifest
from ganctl.exports.model_card import model_card
from ganctl.exports.model_card.licenses import hub_license
from ganctl.exports.model_card.scores import DIAGNOSTIC_IMAGES
from ganctl.training.callbacks import diagnostics
from ganctl.training.evaluation.neighbors import QUANTILE
from tests.unit.exports.cards import code_blocks, table, write_carded_export

huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub, which reads model cards")

PRETRAINED = Path(__file__).parents[3] / "exports/pretrained"
METRICS = {
    "step": 20, "images": 1280, "split": "val", "fd": 3.25, "fd_floor": 0.5, "fd_ratio": 6.5, "kid": 0.75,
    "kid_se": 0.0625, "label_accuracy": 0.875, "class_accuracy": {str(digit): 0.5 + digit / 20 for digit in range(10)},
    "scorer_accuracy": 0.984, "scorer_weak": False, "scorer_fault": None, "no_summary": None, "num_images": 2000,
    "measure": 2, "diversity": 0.9375, "near_copies": None, "precision": 0.61, "recall": 0.62, "density": 0.63,
    "coverage": 0.64, "class_balance": 0.96, "class_balance_real": 0.99, "inception_score": 8.5,
    "inception_score_real": 9.5, "my_score": 42.0,
}  # fmt: skip
NAMES = [
    "a|b",
    "`c`",
    "<script>alert(1)</script>",
    "x\n---\ny",
    "*d* _e_",
    "[l](http://x)",
    "猫 & 🐱",
    "\\",
    "&lt;'\"",
    "$f$",
]


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A manifest with all scores."""
    folder = write_carded_export(tmp_path_factory.mktemp("export"))
    read = manifest.read(folder)
    read["checkpoint"]["metrics"] = METRICS
    return read


def with_metrics(fields: dict[str, Any], **metrics: Any) -> dict[str, Any]:
    return {**fields, "checkpoint": {**fields["checkpoint"], "metrics": metrics}}


def read_head(card: str) -> Any:
    """Reads the card as the Hub's library does, which raises an error for a head that it does not understand.

    `validate` of the library would send the card to the Hub, which checks it once more.
    """
    data = huggingface_hub.ModelCard(card, ignore_metadata_errors=False).data
    parsed = yaml.safe_load(card.split("\n---\n")[0])
    assert data.to_dict().keys() == parsed.keys(), "the library keeps all fields"
    return data


def test_the_folder_of_an_export_has_a_card_under_the_name_that_the_hub_reads(tmp_path: Path) -> None:
    folder = write_carded_export(tmp_path / "export")
    assert (folder / "README.md").read_bytes() == (folder / "card.md").read_bytes()
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("ganctl", "unconditional-image-generation")
    for name in ("samples.png", *manifest.read(folder)["files"]):
        assert (folder / name).is_file(), "the card shows or names it"
    assert "](samples.png)" in card.text


def test_the_head_has_the_license_the_tags_the_data_set_and_every_score(fields: dict[str, Any]) -> None:
    data = read_head(model_card(fields))
    assert (data.license, data.datasets) == ("cc-by-sa-3.0", ["ylecun/mnist"])
    assert {"gan", "image-generation", "onnx", "pytorch", "torchscript", "class-conditional"} <= set(data.tags)
    results = {result.metric_type: result for result in data.eval_results}
    for key in ("fd", "kid", "label_accuracy", "precision", "recall", "density", "coverage", "diversity", "my_score"):
        assert results[key].metric_value == METRICS[key], key
    assert set(results) == set(data.metrics)
    assert (results["fd"].dataset_name, results["fd"].dataset_split) == ("MNIST", "validation")
    assert results["fd"].metric_name == "Fréchet distance (N = 2,000; real images: 0.5000)"
    assert results["fd"].task_type == data.pipeline_tag


def test_each_score_has_its_value_for_real_images_and_its_number_of_images(fields: dict[str, Any]) -> None:
    rows = table(model_card(fields), "score")
    assert rows["Fréchet distance"][:3] == ["3.2500", "0.5000", "2,000"]
    assert rows["KID"][:3] == ["0.7500 ± 0.0625", "0.0000", "2,000"]
    assert rows["label accuracy"][:3] == ["0.8750", "0.9840", "2,000"]
    assert rows["class balance"][:3] == ["0.9600", "0.9900", "2,000"]
    assert rows["Inception Score"][:3] == ["8.5000", "9.5000", "2,000"]
    assert rows["diversity"][:3] == ["0.9375", "1.0000", "≤ 256"]
    assert rows["my_score"][:3] == ["42.0000", "–", "–"]
    assert {"precision", "recall", "density", "coverage"} <= set(rows)
    assert "near copies" not in rows
    assert table(model_card(with_metrics(fields, near_copies=0.02)), "score")["near copies"][1] == f"{QUANTILE:.4f}"
    assert DIAGNOSTIC_IMAGES == diagnostics._IMAGES  # noqa: SLF001  # the number is not in the metrics


def test_the_scores_of_ganctl_evaluate_have_a_row_for_near_copies(fields: dict[str, Any]) -> None:
    memorisation = {"ratio": 0.96, "share_closer": 0.01, "flagged": False, "num_images": 1000}
    rows = table(model_card(with_metrics(fields, **METRICS, memorisation=memorisation)), "score")
    assert rows["distance to training images"][:3] == ["0.9600", "1.0000", "1,000"]


def test_the_table_of_classes_has_the_accuracy_of_each_class(fields: dict[str, Any]) -> None:
    assert table(model_card(fields), "label") == {
        str(label): [name, f"{METRICS['class_accuracy'][name]:.4f}"]  # type: ignore[index]  # a dict of floats
        for label, name in enumerate(fields["class_names"])
    }
    unconditional = model_card({**fields, "conditional": False})
    assert "## Classes" not in unconditional
    assert "label =" not in unconditional
    assert "many classes" not in unconditional
    many = model_card({**fields, "class_names": [f"class {i}" for i in range(200)]})
    assert "<summary>200 classes</summary>\n\n| label |" in many
    assert "| 199 | class 199 | – |\n\n</details>" in many


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({}, "No scores: the checkpoint has none, so nothing is known"),
        ({"fd": float("nan"), "num_images": 200}, "No scores: the checkpoint has none"),
        ({"fd": None, "kid": None, "no_summary": "found 3 generated images", "num_images": 3}, "found 3 generated"),
        ({"step": 1, "images": 64, "fd": None, "scorer_fault": "no classifier"}, "No scores: no classifier."),
    ],
)
def test_the_card_of_a_model_without_scores_says_so_and_is_valid(
    fields: dict[str, Any], metrics: dict[str, Any], reason: str
) -> None:
    card = model_card(with_metrics(fields, **metrics))
    data = read_head(card)
    assert (data.metrics, data.eval_results) == (None, None)
    assert reason in card
    assert "| score |" not in card
    assert "Measure" not in card
    assert table(card, "label")["3"] == ["3", "–"]


def test_the_card_says_why_label_scores_are_absent_or_rough(fields: dict[str, Any]) -> None:
    weak = model_card(with_metrics(fields, **METRICS | {"scorer_weak": True}))
    assert "The classifier that reads the labels is weak" in weak
    absent = {"label_accuracy": None, "class_accuracy": None, "scorer_fault": "the classifier reads 12 % right"}
    card = model_card(with_metrics(fields, **METRICS | absent))
    assert "No label scores: the classifier reads 12 % right." in card
    assert "label accuracy" not in table(card, "score")


def test_scores_of_an_earlier_version_are_of_measure_1(fields: dict[str, Any]) -> None:
    card = model_card(with_metrics(fields, fd=3.5, fd_floor=0.5, label_accuracy=0.9))
    assert "Measure 1 of ganctl" in card
    assert set(table(card, "score")) == {"Fréchet distance", "label accuracy"}


def test_any_names_and_authors_stay_text_in_the_head_in_tables_and_in_html(fields: dict[str, Any]) -> None:
    accuracy = dict.fromkeys(NAMES, 0.5)
    odd = {
        "class_names": NAMES,
        "data": "my: [data] | <b>\n---\n# x",
        "license": "Ours: <no> | - {}\n---",
        "attribution": NAMES[2],
    }
    card = model_card({**with_metrics(fields, **METRICS | {"class_accuracy": accuracy}), **odd})
    data = read_head(card)
    assert data.eval_results[0].dataset_name == odd["data"]
    assert (data.license, data.license_name) == ("other", "ours-no")
    rows = table(card, "label")
    assert len(rows) == 10
    assert all(len(row) == 2 and row[1] == "0.5000" for row in rows.values())
    assert (rows["0"][0], rows["1"][0], rows["6"][0]) == ("a|b", "`c`", "猫 & 🐱")
    assert rows["3"][0] == "x\\x0a---\\x0ay"
    body = card.split("\n---\n", 1)[1]
    assert "<script" not in body
    assert "<b>" not in body
    assert "\n---" not in body
    assert "\n# x" not in body
    assert "a\\|b" in body
    assert "\\[l\\](http://x)" in body
    assert not any(name in block for block in code_blocks(card, r"\w+") for name in NAMES[:7])


def test_a_markdown_renderer_shows_the_names_as_they_are(fields: dict[str, Any]) -> None:
    markdown_it = pytest.importorskip("markdown_it", reason="needs a Markdown renderer")
    card = model_card({**fields, "class_names": NAMES})
    html = markdown_it.MarkdownIt("gfm-like", {"linkify": False}).render(card.split("\n---\n", 1)[1])
    cells = [part.split("</td>")[0] for part in html.split("<td>")]
    shown = [
        cell.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&") for cell in cells
    ]
    for name in NAMES:
        assert name.replace("\n", "\\x0a") in shown, name


@pytest.mark.parametrize(
    ("name", "identifier"),
    [
        ("Apache-2.0", "apache-2.0"),
        ("Open Database License v1.0", "odbl"),
        ("Open Data Commons Open Database License", "odbl"),
        ("Apache License", "apache-2.0"),
        ("Apache License, Version 2.0", "apache-2.0"),
        ("The MIT License (MIT)", "mit"),
        ("CC-BY-4.0", "cc-by-4.0"),
        ("CC BY-SA 3.0", "cc-by-sa-3.0"),
        ("Attribution-NonCommercial-ShareAlike 4.0 International", "cc-by-nc-sa-4.0"),
        ("Creative Commons Attribution-ShareAlike 4.0 International Public License", "cc-by-sa-4.0"),
        ("Creative Commons Zero v1.0 Universal", "cc0-1.0"),
        ("CC0", "cc0-1.0"),
        ("GNU GENERAL PUBLIC LICENSE", "gpl"),
        ("GPLv3", "gpl-3.0"),
        ("GNU Lesser General Public License v2.1", "lgpl-2.1"),
        ('BSD 3-Clause "New" or "Revised" License', "bsd-3-clause"),
        ("unknown", "unknown"),
    ],
)
def test_licenses_have_the_identifiers_of_the_hub(name: str, identifier: str) -> None:
    assert hub_license(name) == {"license": identifier}


@pytest.mark.parametrize(
    "name",
    [
        "Our own terms",
        "Research only; not the Open Database License",
        "Open Database of Faces",
        "CC-BY-SA-2.0",
        "猫",
        "MIT, but only on Sundays",
        "Not apache",
    ],
)
def test_another_license_is_called_other_with_a_name(name: str) -> None:
    fields = hub_license(name)
    assert fields["license"] == "other"
    assert fields["license_name"].isascii()
    assert fields["license_name"]


def test_without_a_license_the_head_states_none_and_the_text_says_so(fields: dict[str, Any]) -> None:
    card = model_card({**fields, "data": "photos", "license": None})
    data = read_head(card)
    assert (data.license, data.datasets) == (None, None)
    assert "License of the training images: not stated" in card
    assert "states no license" in card


def test_the_card_has_code_for_the_files_of_the_export_only(fields: dict[str, Any]) -> None:
    def card_of(*names: str) -> str:
        return model_card({**fields, "files": {name: {"bytes": 1, "sha256": ""} for name in names}})

    def sections(card: str) -> list[str]:
        return [line[4:] for line in card.splitlines() if line.startswith("### ")]

    assert sections(card_of("generator.onnx")) == ["ONNX Runtime", "JavaScript", "HTTP"]
    assert sections(card_of("generator.ts")) == ["PyTorch", "HTTP"]
    assert "--backend torchscript" in card_of("generator.ts")
    assert sections(card_of("generator.pt2")) == ["PyTorch"]
    assert 'torch.export.load("generator.pt2")' in card_of("generator.pt2")
    assert sections(card_of("generator.int8.onnx")) == ["ONNX Runtime", "JavaScript"]
    assert "pytorch" not in read_head(card_of("generator.onnx")).tags


def test_the_gates_of_small_forms_have_a_table(fields: dict[str, Any]) -> None:
    gate = {"fd": 3.5, "fd_fp32": 3.25, "fd_ratio": 1.08, "label_accuracy": 0.86, "label_accuracy_fp32": None}
    card = model_card({**fields, "gates": {"generator.int8.onnx": gate}})
    assert "| `generator.int8.onnx` | 3.5000 | 3.2500 | 0.8600 | – |\n" in card
    assert "small forms" not in model_card(fields)


@pytest.mark.parametrize("drop", ["data", "preset", "versions", "parity", "ganctl_version"])
def test_a_manifest_of_an_earlier_version_has_a_card(fields: dict[str, Any], drop: str) -> None:
    read_head(model_card({name: value for name, value in fields.items() if name != drop}))


def test_the_card_of_the_pretrained_generator_is_that_of_its_manifest() -> None:
    fields = json.loads((PRETRAINED / "manifest.json").read_text("utf-8"))
    for name in ("card.md", "README.md"):
        text = (PRETRAINED / name).read_text("utf-8")
        assert text == model_card(fields), "renew it by ganctl.exports.documents.write_documents(folder, fields)"
    assert read_head(text).eval_results[0].metric_type == "fd"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_card_names_the_channels(fields: dict[str, Any], channels: int) -> None:
    card = model_card({**fields, "image": {"channels": channels, "height": 28, "width": 28}})
    assert f"[N, {channels}, 28, 28]" in card
    assert ("alpha" in card) == (channels == 4)
