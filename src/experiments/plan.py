"""Every published result, as jobs of the store, by the command that makes them."""

from pathlib import Path

from src.config import ROOT
from src.data import DigitData
from src.experiments import audit, ensembles, photos, runs, tuning
from src.experiments.store import Job
from src.reading import export

EXPORTED = ("robust.onnx", "robust.tflite", "robust_float16.tflite", "robust_int8.tflite")


def jobs(models: Path = ROOT / "models") -> dict[str, list[Job]]:
    """List the jobs of each command, in the order in which they are made."""
    published = runs.published_jobs(folder=models)
    champion, robust = (job for job in published if job.path.stem in ("champion", "robust"))
    exports = export_job(robust, models)
    searches = [tuning.search_job(kind, models / "tuning") for kind in tuning.KINDS]
    return {
        "runs": runs.run_jobs(folder=models / "benchmarks"),
        "ladder": runs.ladder_jobs(models / "ladder"),
        "models": published,
        "timing": [runs.timing_job(models)],
        "tune": [*searches, *tuning.compared_jobs(models / "tuning")],
        "ensemble": ensembles.jobs(models / "ensemble"),
        "export": [exports],
        "photos": [photos.job((champion, exports), models)],
        "audit": [audit.job(models)],
    }


def export_job(robust: Job, models: Path) -> Job:
    """Describe models/exports.json: `robust` for ONNX Runtime and LiteRT."""

    def run(digits: DigitData, path: Path) -> dict:
        return export.export_model(robust.path.with_suffix(".keras"), digits, path.parent)

    settings = {"representative_images": export.REPRESENTATIVE}
    return Job(models / "exports.json", settings, run, (robust,), EXPORTED, "make export")
