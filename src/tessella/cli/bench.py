"""tessella bench: the same questions under many settings, into a ledger."""

from __future__ import annotations

from typing import Annotated

import typer

from .optional_value import RayAlone
from .options import Device, Dtype, Json, Model
from .settings_file import Settings

Command = RayAlone


def command(
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Methods or pipelines, with commas between; all registered ones by default ('all'). 'none' (every "
            "token), 'blind' (no token) and, where a keep is given, 'downsample' are added.",
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(metavar="K1,K2", help="Keeps for methods without a budget of their own: 1/2,1/4 or 64."),
    ] = None,
    types: Annotated[
        str | None,
        typer.Option(
            metavar="T1,T2",
            help="Question types, e.g. colour,digit; by default all of the task, of 'mini' those about one picture.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", help="Questions of each type.")] = 200,
    stage: Annotated[
        str | None,
        typer.Option(metavar="S1,S2", help="Only methods that act there: connector, prefill or input."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Which questions: another seed draws other ones.")] = 0,
    batch: Annotated[int, typer.Option(metavar="N", help="Questions answered together.")] = 50,
    only: Annotated[bool, typer.Option("--only", help="Add no 'none', 'blind' and 'downsample'.")] = False,
    task: Annotated[
        str,
        typer.Option(
            metavar="TASK",
            help="The questions: 'mini' (drawn by the project; also \"mini(variant='crowded')\") or a public set, e.g. "
            "pope.",
        ),
    ] = "mini",
    data: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="A public set from a local file or folder; by default it is downloaded."),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only part I of N of the work: for machines without a ledger in common."),
    ] = None,
    job: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Jobs of different names may run on one ledger at once; they share the work."
        ),
    ] = "bench",
    share: Annotated[
        bool, typer.Option("--share/--no-share", help="Encode each picture once for all methods that allow it.")
    ] = True,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Spread the work over a Ray cluster, one model a worker: host:port of its head, or 'auto' for the one "
            "that runs here; alone, workers on this machine.",
        ),
    ] = None,
    ray_cpus: Annotated[int, typer.Option(metavar="N", help="CPUs of each worker, where the cluster has no GPU.")] = 2,
    time: Annotated[
        bool,
        typer.Option("--time", help="Time every setting afterwards, at batch 1 and 8; the machine should be idle."),
    ] = False,
    settings: Settings = None,
    out: Annotated[
        str, typer.Option(metavar="FILE", help="The SQLite ledger of all answers; one that is there is continued.")
    ] = "bench.db",
    model: Model = "mini",
    dtype: Dtype = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Measure methods on freshly drawn questions.

    Every answer is written to the ledger as soon as it is there: the same command goes on where it was stopped, and
    several of them under different --job names work on it together.
    """
    from ..app.jobs import run_bench
    from ..app.source import Source
    from ..bench.cluster import Cluster
    from ..bench.efficiency import tables_of_times
    from ..bench.runner import Request
    from .output import print_json, print_note, print_table, quiet_libraries
    from .progress import Reporter

    quiet_libraries()
    request = Request(methods, keep, types, limit, stage, seed, batch, only, task, data, shard, share)
    cluster = None if ray is None else Cluster(ray, ray_cpus)
    with Reporter() as reporter:
        summary = run_bench(
            request,
            Source(model, dtype, device),
            out,
            print_note,
            reporter,
            job,
            cluster,
            reporter.advance if time else None,
        )
    if json:
        print_json(summary.to_dict())
        return
    for table in [*summary.tables(), *tables_of_times(out)]:
        print(table.title)
        print_table(table.heads, table.rows, right=table.right)
        print()
    print(f"ledger: {out}")
