"""TensorBoard shows losses, scores, images, graph and settings of a run, each once."""

import io
import re
import threading
from pathlib import Path

import pytest
from PIL import Image, ImageSequence
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ganctl.training.callbacks import SampleGrid, TensorBoard
from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.config.resolve import resolve
from ganctl.training.loop.session import Session
from ganctl.training.loop.trainer import Trainer
from tests.conftest import SMALL
from tests.unit.training.failing import FailOnce


def run_with(tmp_path: Path, *callbacks: Callback, extra: tuple[str, ...] = ()) -> None:
    config, _ = resolve(assignments=[*SMALL, *extra], environment={})
    Trainer(config, run_dir=tmp_path, callbacks=callbacks, max_steps=12).fit()


def test_tensorboard_has_losses_scores_and_pictures(tmp_path: Path) -> None:
    run_with(tmp_path, TensorBoard())
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {"train/loss_d", "train/loss_g", "validation/fd", "validation/label_accuracy"} <= set(
        events.Tags()["scalars"]
    )
    classes = [f"class/{digit}" for digit in range(10)]
    assert events.Tags()["images"] == ["fixed latents", *classes, "walk"]
    assert [event.step for event in events.Scalars("validation/fd_floor")] == [12]
    assert [event.step for event in events.Scalars("train/loss_d")] == [10]
    assert events.Scalars("train/lr")[0].value > 0


class FailingThread(Callback):
    """Starts a thread that ends with a connection error."""

    def on_start(self, run: Run) -> None:
        def fail() -> None:
            raise ConnectionResetError("lost")

        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()


def test_tensorboard_hides_no_error_of_another_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", errors.append)
    run_with(tmp_path, TensorBoard(), FailingThread())
    assert [str(error.exc_value) for error in errors] == ["lost"]


def test_tensorboard_shows_the_distance_beside_its_floor_in_one_chart(tmp_path: Path) -> None:
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

    run_with(tmp_path, TensorBoard())
    events = EventAccumulator(str(tmp_path)).Reload()
    (event,) = events.Tensors("custom_scalars__config__")
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    tags = events.Tags()["scalars"]
    shown = {
        title: [tag for tag in tags for regex in regexes if re.match(regex, tag)] for title, regexes in charts.items()
    }
    assert shown == {
        "Fréchet distance and the floor of real images": ["validation/fd", "validation/fd_floor"],
        "label accuracy": ["validation/label_accuracy"],
        "losses": ["train/loss_d", "train/loss_g"],
    }


def test_tensorboard_shows_animations_of_the_walk_and_at_the_end_the_timelapse(tmp_path: Path) -> None:
    run_with(tmp_path, SampleGrid(), TensorBoard(), extra=("train.batch_size=32", "evaluation.every=128 images"))
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Images("walk")] == [4, 8, 12]
    walk = events.Images("walk")[-1]
    with Image.open(io.BytesIO(walk.encoded_image_string)) as animation:
        assert (animation.format, len(list(ImageSequence.Iterator(animation))), animation.size) == (
            "GIF",
            32,
            (walk.width, walk.height),
        )
        assert animation.size == (10 * 28 * 2, 28 * 2)
    (timelapse,) = events.Images("timelapse")
    assert timelapse.step == 12
    assert timelapse.encoded_image_string == (tmp_path / "timelapse.gif").read_bytes()


def test_tensorboard_needs_no_labels_for_its_pictures(tmp_path: Path) -> None:
    config, _ = resolve(preset="lightning-basic-gan", assignments=SMALL, environment={})
    Trainer(config, run_dir=tmp_path, callbacks=[TensorBoard()], max_steps=1).fit()
    assert EventAccumulator(str(tmp_path)).Reload().Tags()["images"] == ["fixed latents", "walk"]


def test_tensorboard_has_the_generators_graph_and_the_settings_with_the_final_scores(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    run_with(tmp_path, TensorBoard(), extra=("optimizer.lr=0.002",))
    events = EventAccumulator(str(tmp_path)).Reload()
    operators = {node.op for node in events.Graph().node}
    assert any("conv" in operator for operator in operators), operators
    content = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    settings = HParamsPluginData.FromString(content).session_start_info.hparams
    assert settings["optimizer.lr"].number_value == 0.002
    assert settings["model.generator"].string_value == "conv"
    assert events.Scalars("val/fd")[0].step == 12


def test_tensorboard_reads_a_runs_files_in_the_order_of_its_starts(tmp_path: Path) -> None:
    config, _ = resolve(assignments=SMALL, environment={})
    trainer = Trainer(config, run_dir=tmp_path, callbacks=[TensorBoard()])
    files: list[str] = []
    for steps in (1, 2, 3):
        trainer.fit(max_steps=steps)
        (new,) = {path.name for path in tmp_path.glob("events.out.tfevents.*")} - set(files)
        files.append(new)
    seconds = [int(name.split(".")[3]) for name in files]
    assert seconds[0] < seconds[1] < seconds[2]


def test_tensorboard_shows_nothing_of_a_start_that_failed_before_its_first_checkpoint(tmp_path: Path) -> None:
    settings = [*SMALL, "log.tensorboard=true"]
    with pytest.raises(RuntimeError, match="step 13"):
        Session(assignments=settings, run_dir=tmp_path / "run").build(callbacks=[FailOnce(13)]).fit()
    Session(assignments=settings, run_dir=tmp_path / "run", resume="auto").build(max_steps=20).fit()
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert [event.step for event in events.Scalars("train/loss_d")] == [10, 20]
