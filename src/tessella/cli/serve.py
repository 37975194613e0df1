"""tessella serve: an OpenAI-compatible server, and its page."""

from __future__ import annotations

from typing import Annotated

import typer

from .optional_value import RayAlone
from .options import Device, Dtype, Model

Command = RayAlone


def command(
    model: Model = "mini",
    host: Annotated[str, typer.Option(metavar="HOST", help="Where to listen; others than this machine need keys.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(metavar="PORT", help="0: any that is free.")] = 8000,
    api_key_file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="API keys, one a line; others come from TESSELLA_API_KEYS, with commas."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(metavar="METHOD", help="A method, pipeline or recipe, for requests that name none."),
    ] = None,
    keep: Annotated[
        str | None, typer.Option(metavar="KEEP", help="Visual tokens to keep, for requests that do not say.")
    ] = None,
    max_keep: Annotated[
        str | None,
        typer.Option(metavar="KEEP", help="The most that a request may keep: tokens a picture (64), or a fraction."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(metavar="N", help="Longest answer, in tokens.")] = 1024,
    max_n: Annotated[int, typer.Option("--max-n", metavar="N", help="Answers to a request.")] = 8,
    max_pictures: Annotated[int, typer.Option(metavar="N", help="Pictures of a request.")] = 8,
    max_prompt_tokens: Annotated[int, typer.Option(metavar="N", help="Tokens of a request's text.")] = 8192,
    max_body_mb: Annotated[float, typer.Option(metavar="MB", help="Size of a request, and of a picture fetched.")] = 20,
    max_megapixels: Annotated[float, typer.Option(metavar="MP", help="Size of each picture.")] = 25,
    max_held_mb: Annotated[
        float, typer.Option(metavar="MB", help="Bodies and decoded pictures of all requests together; more get 429.")
    ] = 2000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Fetch pictures from this host; may be given several times."),
    ] = None,
    max_batch: Annotated[int, typer.Option(metavar="N", help="Answers written side by side.")] = 32,
    max_waiting: Annotated[int, typer.Option(metavar="N", help="Questions that may wait; more get 429.")] = 256,
    gather_ms: Annotated[float, typer.Option(metavar="MS", help="How long a first question waits for others.")] = 4,
    timeout: Annotated[float, typer.Option(metavar="S", help="Longest time for an answer, with waiting.")] = 120,
    feature_cache_mb: Annotated[int, typer.Option(metavar="MB", help="Cache of encoded pictures; 0: none.")] = 256,
    prompt_cache_mb: Annotated[int, typer.Option(metavar="MB", help="Cache of reduced pictures; 0: none.")] = 256,
    grace: Annotated[float, typer.Option(metavar="S", help="At the end, time to finish what runs.")] = 30,
    share_dir: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Keep results that are shared by link in this folder, not in memory."),
    ] = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write prompts into the log.")] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Answer on replicas in a Ray cluster: host:port of its head, or 'auto' for the one that runs here. "
            "Without a value (or 'local') a cluster is started on this machine.",
        ),
    ] = None,
    min_replicas: Annotated[int, typer.Option(metavar="N", help="With --ray, the fewest replicas.")] = 1,
    max_replicas: Annotated[int, typer.Option(metavar="N", help="With --ray, the most.")] = 4,
    ray_cpus: Annotated[int, typer.Option(metavar="N", help="CPUs of each replica.")] = 2,
    ray_gpus: Annotated[
        float | None, typer.Option(metavar="N", help="GPUs of each replica; 1 where there are any.")
    ] = None,
    dtype: Dtype = None,
    device: Device = None,
) -> None:
    """Serve a model with OpenAI's chat API, and a visual budget for each request.

    A request says {"tessella": {"method": "hiprune", "keep": "1/9"}} beside OpenAI's own fields. Without a temperature
    the model's own generation settings decide, as in transformers: greedy unless they sample. Ctrl-C, or SIGTERM,
    finishes what runs and ends.
    """
    from ..app.source import Source
    from ..serve.cluster.scale import Scale
    from ..serve.keys import read_keys
    from ..serve.settings import FrontSettings, WorkerSettings
    from ..serve.starting import start_server
    from .output import quiet_libraries

    quiet_libraries()
    worker = WorkerSettings(
        source=Source(model, dtype, device),
        max_batch=max_batch,
        max_waiting=max_waiting,
        gather_ms=gather_ms,
        timeout_s=timeout,
        feature_cache_bytes=feature_cache_mb * 2**20,
        prompt_cache_bytes=prompt_cache_mb * 2**20,
    )
    front = FrontSettings(
        host=host,
        port=port,
        keys=read_keys(api_key_file),
        method=method,
        keep=keep,
        max_keep=max_keep,
        max_tokens=max_tokens,
        max_n=max_n,
        max_pictures=max_pictures,
        max_prompt_tokens=max_prompt_tokens,
        max_body_mb=max_body_mb,
        max_megapixels=max_megapixels,
        max_held_mb=max_held_mb,
        allow_hosts=tuple(allow_host or ()),
        grace_s=grace,
        share_dir=share_dir,
        log_prompts=log_prompts,
    )
    start_server(worker, front, print_at_once, ray, Scale(min_replicas, max_replicas, ray_cpus, ray_gpus))


def print_at_once(line: str) -> None:
    print(line, flush=True)
