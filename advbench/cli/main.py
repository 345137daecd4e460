"""The command's groups and options."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from advbench.cli.options import (
    RATE,
    RESULTS,
    MethodOptions,
    baseline_of,
    dataset_of,
    describe_attack,
    runtime_of,
    surrogates_of,
    target_options,
    training_of,
)
from advbench.cli.screen import Screen, errors_in_one_line
from advbench.errors import InvalidConfig, StorageError
from advbench.registry import ATTACKS, DATASETS

if TYPE_CHECKING:
    from advbench.bench import RunRequest
    from advbench.results import CellRecord, ResultStore

__all__ = ["main", "request_of"]

JSON = click.option("--json", "as_json", is_flag=True, help="Print the whole record as JSON, and nothing else.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="advbench")
def main() -> None:
    """Measure how far small additive perturbations push an image classifier: worse and better."""
    # A script that pip installs does not look into the working folder, where one's own MODULE:FACTORY lies.
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)


@main.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--attack", required=True, metavar="NAME", help="The method; see 'advbench list attacks'.")
@target_options
@click.option("--via", metavar="A[,B...]", help="Perturb against surrogates that the attacker trains, instead.")
@click.option(
    "--via-fusion",
    type=click.Choice(["logits", "probabilities", "loss"]),
    default="logits",
    show_default=True,
    help="What of several surrogates is averaged.",
)
@click.option(
    "--via-learns",
    type=click.Choice(["truth", "answers"]),
    default="truth",
    show_default=True,
    help="What they are trained on: the fit images' classes, or the target's answers to altered fit images.",
)
@click.option("--via-weights", metavar="FILE[,...]", help="The surrogates' first weights, checkpoints in their order.")
@click.option(
    "--via-normalisation",
    type=click.Choice(["none", "imagenet", "half"]),
    default="none",
    show_default=True,
    help="Put inside the surrogates.",
)
@click.option(
    "--via-lr",
    default=5e-4,
    show_default=True,
    type=RATE,
    help="Adam's rate in their training.",
)
@click.option("--via-epochs", default=20, show_default=True, type=click.IntRange(0), help="How long they are trained.")
@click.option("--via-batch", default=64, show_default=True, type=click.IntRange(2), help="Images a step in it.")
@click.option("--threat", metavar="NAME", help="Threat model; the least that suffices, if left out.")
@click.option("--true-labels/--no-true-labels", help="Grant the evaluation's true labels as well: an oracle.")
@click.option("--max-queries", type=click.IntRange(0), metavar="N", help="Most queries for one image in use.")
@click.option("--max-fit-queries", type=click.IntRange(0), metavar="N", help="Most queries in fitting.")
@click.option("--goal", type=click.Choice(["degrade", "enhance"]), default="degrade", show_default=True)
@click.option("--epsilon", metavar="E", help="Largest norm, pixels in [0, 1]: 0.03 or 8/255. Unbounded, if left out.")
@click.option("--norm", type=click.Choice(["linf", "l2", "l1"]), default="linf", show_default=True)
@click.option(
    "--limit", type=click.IntRange(2), metavar="N", help="Keep N evaluation images, balanced over the classes."
)
@click.option("--fit-images", type=click.IntRange(2), metavar="N", help="Fit the method on N images. All, if left out.")
@click.option("--batch", default=128, show_default=True, type=click.IntRange(1), help="Evaluation images at a time.")
@RESULTS
@JSON
@click.pass_context
@errors_in_one_line
def run(context: click.Context, **given: Any) -> None:
    """Run one method against one classifier; store, check and show the result.

    Options that are not listed here are the method's own: see 'advbench describe ATTACK'.
    """
    from advbench.bench import run_cell
    from advbench.report import record_summary
    from advbench.results import ResultStore

    screen = Screen(quiet=given["as_json"])
    request = _request(context)
    with screen:
        outcome = run_cell(request, screen)
    if outcome is None:  # a helper process of a run over several devices
        return
    record = outcome.record
    if given["as_json"]:
        click.echo(record.model_dump_json(indent=2))
    else:
        screen.show(record_summary(record))
        if outcome.from_store:
            screen.show("answered from the store: this very run was done before")
        screen.show(f"result {record.key[:10]} in {outcome.folder}")
    _draw(record, ResultStore(request.results), screen, listed=not given["as_json"])
    if record.metrics is None:
        sys.exit(1)


def _draw(record: "CellRecord", store: "ResultStore", screen: Screen, *, listed: bool) -> None:
    """Draw a result's figures; the result is stored by then, and no less so where they cannot be drawn or kept."""
    from advbench.report import draw_figures

    try:
        figures = draw_figures(record, store)
    except StorageError as error:
        screen.say(f"no figures: {error}")
        return
    except Exception as error:  # what another package's method leaves behind may be such as no figure can show
        screen.say(f"no figures: {type(error).__name__}: {error}")
        return
    for figure in figures if listed else []:
        screen.show(f"figure {figure}")


def request_of(arguments: list[str]) -> "RunRequest":
    """What ``advbench run`` with these arguments would run.

    Raises:
        InvalidConfig: It would refuse them.
    """
    try:
        context = run.make_context("run", list(arguments))
    except click.BadParameter as error:
        option = error.param.opts[0].lstrip("-") if error.param else None
        raise InvalidConfig(error.format_message(), option=option) from error
    except click.ClickException as error:
        raise InvalidConfig(error.format_message()) from error
    with context:  # complaints know the options of this command, and not those of the one that asks
        return _request(context)


def _request(context: click.Context) -> "RunRequest":
    from advbench.bench import RunRequest
    from advbench.threat import Budget, parse_epsilon

    given = dict(context.params)
    options = baseline_of(context, given)
    epsilon = given["epsilon"]
    return RunRequest(
        attack=given["attack"],
        options=options | MethodOptions(given["attack"], context.args).values,
        via=surrogates_of(given),
        target=training_of(given),
        dataset=dataset_of(given, limit=given["limit"], fit_images=given["fit_images"]),
        budget=Budget(norm=given["norm"], epsilon=None if epsilon is None else parse_epsilon(epsilon)),
        runtime=runtime_of(given),
        batch_size=given["batch"],
        **{name: given[name] for name in _PASSED_ON},
    )


_PASSED_ON = (
    "baseline",
    "via_fusion",
    "via_learns",
    "threat",
    "true_labels",
    "max_queries",
    "max_fit_queries",
    "goal",
    "seed",
    "results",
)


def _safetensors(_context: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and path.suffix != ".safetensors":
        raise click.BadParameter(f"expected a file that ends in .safetensors, got '{path}'")
    return path


@main.command()
@target_options
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    callback=_safetensors,
    metavar="FILE",
    help="Write its weights here, for another target's --init.",
)
@errors_in_one_line
def train(**given: Any) -> None:
    """Train a target as the paper does, keep it, and say how good it is. What is kept is never trained again."""
    from advbench.bench import accuracy, make_target
    from advbench.datasets import load_dataset
    from advbench.report.tables import with_interval
    from advbench.targets import write_weights

    screen, runtime = Screen(), runtime_of(given)
    with screen:
        dataset = load_dataset(dataset_of(given))
        target = make_target(training_of(given), dataset, runtime, screen)
        if given["save"]:
            write_weights(target, given["save"])
        parts = {"validation": dataset.validation, "evaluation": dataset.evaluation}
        shares = {name: accuracy(target, part) for name, part in parts.items()}
    for name, share in shares.items():
        shown = with_interval(share.value, (share.low, share.high))
        screen.show(f"{name} accuracy {shown} over {len(parts[name])} images")
    screen.show(f"target {target.name}, fingerprint {target.fingerprint}")


@main.command("list")
@click.argument("what", type=click.Choice(["attacks", "baselines", "targets", "datasets", "threats", "results"]))
@RESULTS
@errors_in_one_line
def list_(what: str, results: str) -> None:
    """List what there is."""
    screen = Screen()
    if what == "attacks":
        families = ((f"{prefix}:NAME", entry.summary) for prefix, entry in ATTACKS.families.items())
        baselines = ("baseline:NAME", "a cited configuration; see 'advbench list baselines'")
        screen.pairs([*((name, entry.summary) for name, entry in ATTACKS.entries.items()), *families, baselines])
    elif what == "baselines":
        from advbench.baselines import baseline_files, read_baseline

        screen.pairs((f"baseline:{name}", read_baseline(path).title) for name, path in baseline_files().items())
    elif what == "datasets":
        screen.pairs((name, entry.summary) for name, entry in DATASETS.entries.items())
    elif what == "threats":
        from advbench.threat import THREATS

        screen.pairs((name, ", ".join(sorted(threat.perturb))) for name, threat in THREATS.items())
    elif what == "targets":
        from advbench.targets import known_architectures

        screen.show("\n".join([*known_architectures(), "timm:NAME", "MODULE:FACTORY"]))
    else:
        from advbench.report import records_table
        from advbench.results import ResultStore

        screen.show(records_table(ResultStore(results).records()))


@main.command()
@click.argument("attack")
@errors_in_one_line
def describe(attack: str) -> None:
    """Show a method: what it is, and its options for 'advbench run'.

    A default that depends on the run is given by what decides it (the goal, whether there is a bound, the images' size,
    the target), with the values that this gives in some settings. A result's record has the values that it was made by.
    """
    Screen().show(describe_attack(attack))


@main.command()
@click.argument("result")
@RESULTS
@JSON
@errors_in_one_line
def show(result: str, results: str, as_json: bool) -> None:
    """Show a stored result, with the flags that others beside it give it.

    RESULT is its key, the beginning of it, or the path of its folder, whatever --results says.
    """
    from advbench.report import beside_others, record_summary
    from advbench.results import find_result

    screen = Screen(quiet=as_json)
    store, found = find_result(result, results)
    record = beside_others(found, store)
    if as_json:
        click.echo(record.model_dump_json(indent=2))
    else:
        screen.show(record_summary(record))
        screen.show(f"result {record.key[:10]} in {store.folder(record.key)}")
    _draw(record, store, screen, listed=not as_json)


@main.command()
@click.argument("result")
@RESULTS
@JSON
@errors_in_one_line
def verify(result: str, results: str, as_json: bool) -> None:
    """Compute a stored result again and say whether it holds; exits with 1 where it does not."""
    from advbench.bench import verify_result
    from advbench.results import find_result

    store, record = find_result(result, results)
    screen = Screen(quiet=as_json)
    with screen:
        verdict = verify_result(record, store, screen)
    if as_json:
        click.echo(json.dumps(vars(verdict), indent=2))
    else:
        screen.show(f"result {record.key[:10]} {'holds' if verdict.holds else 'does NOT hold'} (from {verdict.source})")
        for finding in verdict.findings:
            screen.show(f"- {finding}")
    if not verdict.holds:
        sys.exit(1)
