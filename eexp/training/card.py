"""The model card, README.md beside the weights: how a model was trained, for a person."""

from __future__ import annotations

from eexp.training.updates import EXAMPLES, TRAJECTORIES


def model_card(run: dict) -> str:
    """Render the model card of a finished run, from the contents of eexp.json."""
    settings, data, trained = run["settings"], run["data"], run["trained"]
    init = f", continuing `{settings['init']}`" if settings["init"] else ""
    weights = "All weights" if settings["full"] else "A LoRA adapter" + init
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in data["kinds"].items())
    table = {
        "base": f"{run['base']} ({run['base_fingerprint'] or 'no local weights to fingerprint'})",
        "prompt style": run["prompt_style"],
        "examples": f"{data['examples']:,} ({kinds}){_imagined(data)}",
        "tokens": f"{data['tokens']:,}, {data['target_tokens']:,} of them targets",
        "updates": f"{run['updates']:,}, with {trained['target_tokens']:,} target tokens",
        "computed tokens": f"{trained['computed_tokens']:,} for {trained['tokens']:,}, "
        f"{settings['tokens_per_batch']:,} at once",
        "batch": _batch(settings),
        "loss": ", ".join(f"{100 * share:.3g} % {kind}" for kind, share in trained["shares"].items()),
        "learning rate": f"{run['learning_rate']:g}, {settings['schedule']}",
        "seed": settings["seed"],
        "trainable parameters": f"{run['trainable_parameters']:,}",
        "mean training loss": run["final_loss"],
        **_validation(run),
        "device": run["device"],
        "data sha256": data["sha256"][:16],
        "versions": ", ".join(f"{package} {version}" for package, version in run["versions"].items()),
    }
    lines = [
        "---",
        "library_name: " + ("transformers" if settings["full"] else "peft"),
        "tags: [eexp, early-experience]",
        "---",
        "",
        f"{weights} of `{run['base']}`, trained by eexp {run['eexp']}.",
        "",
        "| | |",
        "|---|---|",
    ]
    lines += [f"| {key} | {value} |" for key, value in table.items()]
    lines += ["", "The data came from:", ""]
    for lineage in run["lineage"]:
        lines += [f"- `{entry}`" if i == 0 else f"  then `{entry}`" for i, entry in enumerate(lineage)]
    return "\n".join(lines) + "\n"


def _imagined(data: dict) -> str:
    """Return how many of the examples are imagined, as the rest of a sentence; nothing where none is."""
    number = data.get("imagined")
    return f", {number:,} of them imagined (a world model wrote their observations)" if number else ""


def _batch(settings: dict) -> str:
    """Return what an update is made of, in words."""
    if settings["budget_like"]:
        return f"as in {settings['budget_like']}"
    if settings["batch_size"] or settings["shuffle"] == "examples":
        return f"{settings['batch_size'] or EXAMPLES} examples"
    if settings["mini_batches"]:
        return f"an epoch in {settings['mini_batches']} updates, or in fewer"
    if settings["batch_trajectories"]:
        return f"{settings['batch_trajectories']} trajectories"
    return f"at least {TRAJECTORIES} trajectories and {EXAMPLES} examples"


def _validation(run: dict) -> dict[str, str]:
    """Return the row of the final validation; none for a run without."""
    losses = run["final_validation"]
    if losses is None:
        return {}
    spans = ", ".join(f"{name} {span['loss']:.4f}" for name, span in losses["spans"].items())
    examples = f"{run['validation']['examples']:,} examples{_imagined(run['validation'])}"
    return {"validation loss": f"{losses['loss']:.4f} ({spans}) after update {run['kept_step']:,}, on {examples}"}
