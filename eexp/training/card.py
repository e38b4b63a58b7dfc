"""What a training run says of itself, for a person: README.md beside the weights."""

from __future__ import annotations

from eexp.training.updates import EXAMPLES, TRAJECTORIES


def model_card(run: dict) -> str:
    """The model card: what it was made from and how."""
    s, d, t = run["settings"], run["data"], run["trained"]
    what = "All weights" if s["full"] else "A LoRA adapter" + (f", continuing `{s['init']}`" if s["init"] else "")
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in d["kinds"].items())
    rows = {
        "base": f"{run['base']} ({run['base_fingerprint'] or 'no local weights to fingerprint'})",
        "prompt style": run["prompt_style"],
        "examples": f"{d['examples']:,} ({kinds})",
        "tokens": f"{d['tokens']:,}, {d['target_tokens']:,} of them targets",
        "updates": f"{run['updates']:,}, with {t['target_tokens']:,} target tokens",
        "computed tokens": f"{t['computed_tokens']:,} for {t['tokens']:,}, {s['tokens_per_batch']:,} at once",
        "batch": _batch(s),
        "loss": ", ".join(f"{100 * n:.3g} % {kind}" for kind, n in t["shares"].items()),
        "learning rate": f"{run['learning_rate']:g}, {s['schedule']}",
        "seed": s["seed"],
        "trainable parameters": f"{run['trainable_parameters']:,}",
        "mean training loss": run["final_loss"],
        **_validation(run),
        "device": run["device"],
        "data sha256": d["sha256"][:16],
        "versions": ", ".join(f"{k} {v}" for k, v in run["versions"].items()),
    }
    lines = [
        "---",
        "library_name: " + ("transformers" if s["full"] else "peft"),
        "tags: [eexp, early-experience]",
        "---",
        "",
        f"{what} of `{run['base']}`, trained by eexp {run['eexp']}.",
        "",
        "| | |",
        "|---|---|",
    ]
    lines += [f"| {key} | {value} |" for key, value in rows.items()]
    lines += ["", "The data came from:", ""]
    for one in run["lineage"]:
        lines += [f"- `{entry}`" if i == 0 else f"  then `{entry}`" for i, entry in enumerate(one)]
    return "\n".join(lines) + "\n"


def _batch(settings: dict) -> str:
    if settings["budget_like"]:
        return f"as in {settings['budget_like']}"
    if settings["batch_size"] or settings["shuffle"] == "examples":
        return f"{settings['batch_size'] or EXAMPLES} examples"
    if settings["batch_trajectories"]:
        return f"{settings['batch_trajectories']} trajectories"
    return f"at least {TRAJECTORIES} trajectories and {EXAMPLES} examples"


def _validation(run: dict) -> dict[str, str]:
    found = run["final_validation"]
    if found is None:
        return {}
    spans = ", ".join(f"{span} {one['loss']:.4f}" for span, one in found["spans"].items())
    examples = f"{run['validation']['examples']:,} examples"
    return {"validation loss": f"{found['loss']:.4f} ({spans}) after update {run['kept_step']:,}, on {examples}"}
