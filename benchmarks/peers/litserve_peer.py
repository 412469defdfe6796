"""Peer server with LitServe; runs one inference pass per batch of waiting requests. LitServe accepts POST only.

python -m ganctl.benchmarks.peers.litserve_peer --port P --workers N --fast-queue
"""

from typing import Any

import click
import litserve
import numpy as np
from fastapi import Response
from numpy.typing import NDArray

from ganctl.benchmarks.peers.generator import Generator, png


class Digits(litserve.LitAPI):
    """The API: decodes, predicts and encodes a batch."""

    def setup(self, device: str) -> None:
        self.generator = Generator()

    def decode_request(self, request: dict[str, Any]) -> NDArray[np.int64]:
        return self.generator.labels(request.get("digits"), request.get("count", 1))

    def batch(self, inputs: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        return inputs  # LitServe's default stacks them, which needs equal lengths

    def predict(self, batch: list[NDArray[np.int64]]) -> list[NDArray[np.uint8]]:
        images = self.generator.generate(np.concatenate(batch))
        return np.split(images, np.cumsum([len(labels) for labels in batch])[:-1])

    def unbatch(self, output: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        return output

    def encode_response(self, output: NDArray[np.uint8]) -> Response:
        return Response(content=png(output), media_type="image/png")


@click.command()
@click.option("--port", type=int, required=True)
@click.option("--workers", type=int, required=True)
@click.option("--fast-queue/--no-fast-queue", required=True)
def main(port: int, workers: int, fast_queue: bool) -> None:
    """Serve on loopback; $GANCTL_BENCH_GENERATOR names the generator."""
    api = Digits(max_batch_size=64, api_path="/digits")  # no batch timeout: it brought no speed
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers, fast_queue=fast_queue)
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
